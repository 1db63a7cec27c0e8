"""The released operators against the outputs of the released code."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from timm_asap.ops.reference import ReleasedPool2d, released_pool2d

# Outputs of GeJulia/flc_pooling at revision 983b2b5 (MIT): `size.input` and `size.variant`.
GOLDENS = load_file(Path(__file__).parents[1] / "goldens" / "released_pooling.safetensors")
CASES = sorted(key for key in GOLDENS if not key.endswith(".input"))


def test_the_goldens_are_all_there():
    assert len(CASES) == 40


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_code(case):
    size, variant = case.split(".")
    x = GOLDENS[f"{size}.input"]
    result = released_pool2d(x.double(), variant)
    torch.testing.assert_close(result.float(), GOLDENS[case], atol=1e-6, rtol=0)
    torch.testing.assert_close(ReleasedPool2d(variant)(x), GOLDENS[case], atol=2e-6, rtol=0)


def test_the_misplaced_crop_is_kept():
    assert released_pool2d(torch.ones(1, 1, 14, 14, dtype=torch.float64), "flc").mean().abs() < 1e-12
    assert released_pool2d(torch.ones(1, 1, 16, 16, dtype=torch.float64), "flc").mean() == 1


def test_a_second_size_works():
    pool = ReleasedPool2d()
    assert pool(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 4, 4)
    assert pool(torch.zeros(1, 1, 12, 20)).shape == (1, 1, 6, 10)


def test_unknown_variant():
    with pytest.raises(ValueError, match="unknown variant 'asap2': expected one of asap, asap_padding_large"):
        released_pool2d(torch.zeros(1, 1, 8, 8), "asap2")
