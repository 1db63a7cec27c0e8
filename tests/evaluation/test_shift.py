"""Shifts against cosines worked by hand, and consistency against models whose answers are known."""

import math

import numpy as np
import pytest
import torch

from timm_asap import asap_pool2d
from timm_asap.errors import UserError
from timm_asap.evaluation.shift import ShiftSpec, shift_consistency, shift_images


def wave(n, k, shift=0.0, mirrored=False):
    """A cosine of frequency k: of the DFT of n samples, or of the mirrored signal (a DCT-II basis vector)."""
    i = torch.arange(n, dtype=torch.float64) - shift
    return torch.cos(math.pi * (i + 0.5) * k / n) if mirrored else torch.cos(2 * math.pi * i * k / n)


def on_axis(signal, axis, other=5):
    """The signal along one axis of a (1, 2, H, W) image, constant along the other; the second channel is negated."""
    image = signal[:, None].expand(-1, other) if axis == 0 else signal.expand(other, -1)
    return torch.stack([image, -image])[None]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pixels", [0.5, -0.5, 1.25, 1, -3])
@pytest.mark.parametrize(("n", "k"), [(8, 0), (8, 1), (8, 3), (9, 1), (9, 4)])
def test_a_cosine_moves_by_its_phase(n, k, pixels, axis):
    x, expected = on_axis(wave(n, k), axis), on_axis(wave(n, k, pixels), axis)
    vector = (pixels, 0) if axis == 0 else (0, pixels)
    torch.testing.assert_close(shift_images(x, "circular", vector), expected)
    x, expected = (on_axis(wave(n, k, shift, mirrored=True), axis) for shift in (0, pixels))
    torch.testing.assert_close(shift_images(x, "crop", vector), expected)


@pytest.mark.parametrize(("pixels", "gain"), [(0.5, 0.0), (1.0, -1.0), (0.25, math.sqrt(0.5))])
def test_the_alternation_of_neighbors_keeps_its_cosine(pixels, gain):
    x = on_axis(wave(8, 4), 1)
    torch.testing.assert_close(shift_images(x, "circular", (0, pixels)), gain * x)


def test_whole_pixels_are_moved_and_not_computed():
    x = torch.rand(2, 3, 5, 7)
    assert torch.equal(shift_images(x, "circular", (2, -3)), x.roll((2, -3), (-2, -1)))
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (2, 0), (0, 3)), mode="symmetric"))
    assert torch.equal(shift_images(x, "crop", (2, -3)), padded[..., :5, 3:])


def test_each_image_has_its_own_shift():
    x = torch.rand(3, 1, 6, 6)
    vectors = torch.tensor([[0.0, 1.0], [-2.0, 0.0], [0.5, -0.5]])
    together = shift_images(x, "circular", vectors)
    alone = [shift_images(x[i : i + 1], "circular", tuple(v.tolist())) for i, v in enumerate(vectors)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[0], x[0].roll(1, -1))


def test_two_half_pixels_make_a_whole_one():
    x = torch.rand(1, 1, 9, 9)
    twice = shift_images(shift_images(x, "circular", (0.5, -0.5)), "circular", (0.5, -0.5))
    torch.testing.assert_close(twice, x.roll((1, -1), (-2, -1)))


def test_shape_dtype_and_gradient_free_input_stay():
    x = torch.rand(2, 3, 6, 4, dtype=torch.float16)
    for kind in ("circular", "crop"):
        moved = shift_images(x, kind, (0.5, 1))
        assert (moved.shape, moved.dtype) == (x.shape, x.dtype)


def test_directions_depend_on_seed_and_image_alone():
    spec, indices = ShiftSpec("circular", 2), torch.arange(4000)
    drawn = spec.displacements(indices)
    assert torch.equal(drawn[[7, 3, 999]], spec.displacements(torch.tensor([7, 3, 999])))
    assert torch.equal(2 * ShiftSpec("crop", 1).displacements(indices), drawn)
    assert not torch.equal(ShiftSpec("circular", 2, seed=1).displacements(indices), drawn)
    directions, counts = drawn.unique(dim=0, return_counts=True)
    assert directions.abs().amax(1).eq(2).all()
    assert len(counts) == 8
    # 500 each, with a standard deviation of 21
    assert counts.sub(500).abs().max() < 100


def corner_is_bright(x):
    """Two classes, by the pixel at the origin alone."""
    return torch.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], dim=1)


def test_consistency_by_hand():
    images = torch.zeros(64, 1, 4, 4)
    images[:, :, :2] = 1  # bright rows 0 and 1, the origin among them
    indices = torch.arange(64)
    spec = ShiftSpec("circular", 1)
    same = shift_consistency(corner_is_bright, images, spec, indices)
    down = spec.displacements(indices)[:, 0]
    assert same.dtype == torch.bool
    # moved down by one, row 0 is the dark row 3; up, it is row 1; mirrored at the edge, it is row 0 again
    assert torch.equal(same, down <= 0)
    assert shift_consistency(corner_is_bright, images, ShiftSpec("crop", 1), indices).all()
    wrong = torch.zeros(64, dtype=torch.long)
    assert torch.equal(shift_consistency(corner_is_bright, images, spec, indices, predictions=wrong), down > 0)


def test_pooling_is_consistent_where_a_stride_is_not():
    """A texture finer than the stride, told from its negative: the stride reads its phase, the pool removes it."""
    images = torch.full((16, 1, 8, 8), 0.6)
    images[..., ::2] += 0.2
    images[..., 1::2] -= 0.2

    def by_first_sample(downsample):
        return lambda x: corner_is_bright(downsample(x))

    indices = torch.arange(16)
    spec = ShiftSpec("circular", 1)
    sideways = spec.displacements(indices)[:, 1] != 0
    assert sideways.any()
    assert torch.equal(shift_consistency(by_first_sample(lambda x: x[..., ::2, ::2]), images, spec, indices), ~sideways)
    pooled = by_first_sample(asap_pool2d)
    assert shift_consistency(pooled, images, spec, indices).all()


def test_record_and_id():
    assert ShiftSpec("circular", 1).id == "shift/circular/1"
    assert ShiftSpec("crop", 0.5, seed=3).record() == {
        "measure": "shift",
        "id": "shift/crop/0.5",
        "kind": "crop",
        "pixels": 0.5,
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ShiftSpec("roll", 1), "unknown shift 'roll'.*circular, crop"),
        (lambda: ShiftSpec("crop", 0), "above 0, got 0"),
        (lambda: ShiftSpec("crop", math.nan), "above 0, got nan"),
        (lambda: ShiftSpec("crop", 1, seed=-1), "seed of 0 or more, got -1"),
        (lambda: shift_images(torch.zeros(3, 8, 8), "crop", (0, 1)), r"\(B, C, H, W\), got torch.float32 \(3, 8, 8\)"),
        (lambda: shift_images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "crop", (0, 1)), "float images"),
        (lambda: shift_images(torch.zeros(1, 1, 8, 6), "crop", (0, 6)), "fewer pixels than the image's 8 x 6, got 6"),
        (lambda: shift_images(torch.zeros(1, 1, 8, 6), "crop", (math.nan, 0)), "fewer pixels"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
