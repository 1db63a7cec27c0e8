"""Twins of every family pass timm's contract (`timm_contract.py`) as if they were timm's own."""

import sys

import pytest
import timm

from tests.support import timm_contract as contract
from timm_asap._installation import NEWEST_TIMM
from timm_asap.zoo import plain_name, twin_names
from timm_asap.zoo.families import FAMILIES, LEFT_FAMILIES
from timm_asap.zoo.summary import summarize

# Pass every check in a second or two each; between them they have every kind of builder and feature extractor.
THOROUGH = [
    "test_resnet",
    "test_convnext",
    "test_byobnet",
    "test_efficientnet",
    "test_mambaout",
    "test_nfnet",
    "test_coatnet",
    "resnet20_lowres",
    "cpubone_nano",
    "cspnext_tiny",
    "hgnetv2_b0",
    "levit_128s",
    "pvt_v2_b0",
    "regnetx_002",
    "repghostnet_050",
    "starnet_s050",
    "xception41p",
]
CHECKS = ["options", "heads", "intermediates", "fx"]


def smallest(family):
    """timm's own test model of a family, or else the one of the fewest multiply-adds."""
    names = timm.list_models(module=family)
    return min(names, key=lambda name: (not name.startswith("test_"), summarize(f"{name}_asap").macs))


# an older timm lacks the youngest families
SMALLEST = [smallest(family) for family in FAMILIES if timm.list_models(module=family)]
THOROUGH = [name for name in THOROUGH if timm.is_model(name)]
ALL = [plain_name(twin) for twin in twin_names()]


def test_every_module_of_timm_has_twins_or_a_reason():
    # other tests of the same process register the networks of the benchmarks
    of_benchmarks = {name.rpartition(".")[2] for name in sys.modules if name.startswith("benchmarks.")}
    modules = set(timm.list_modules()) - {"asap_twins"} - of_benchmarks
    if timm.__version__ == NEWEST_TIMM:
        assert set(FAMILIES) | set(LEFT_FAMILIES) == modules
    assert modules <= set(FAMILIES) | set(LEFT_FAMILIES)
    assert not set(FAMILIES) & set(LEFT_FAMILIES)


# Each takes 8 to 90 s of a core (longest sequencer, whose LSTMs are no part of what downsamples): `-m zoo` runs them.
SLOW = {
    *("coat_lite_tiny", "cpubone_nano", "csatv2", "efficientformerv2_s0", "efficientvit_m0", "fastvit_t8"),
    *("focalnet_tiny_srf", "gcvit_xxtiny", "haloregnetz_b", "hieradet_small", "iformer_t", "inception_resnet_v2"),
    *("inception_v3", "inception_v4", "lowformer_b0", "nasnetalarge", "pnasnet5large", "sequencer2d_s"),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.zoo if n in SLOW else ()) for n in SMALLEST])
def test_structure_sizes_and_gradients_of_every_family(name):
    contract.check_structure(name)
    fixed = timm.get_pretrained_cfg_value(name, "fixed_input_size")
    contract.check_sizes(name, sizes=[None if fixed else (97, 131)])
    contract.check_gradients(name)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", THOROUGH)
def test_contract(name, check):
    getattr(contract, f"check_{check}")(name)


@pytest.mark.parametrize("name", THOROUGH)
def test_values(name, tmp_path):
    contract.check_values(name, tmp_path)


@pytest.mark.parametrize("name", THOROUGH)
def test_nothing_that_downsamples_is_missed(name):
    contract.check_complete(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ALL)
def test_nothing_that_downsamples_is_missed_in_any_twin(name):
    contract.check_complete(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", SMALLEST)
def test_symbolic_tracing_of_every_family(name):
    contract.check_symbolic_trace(name)


@pytest.mark.zoo
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", sorted(set(SMALLEST) - set(THOROUGH)))
def test_contract_of_every_family(name, check):
    getattr(contract, f"check_{check}")(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", sorted(set(SMALLEST) - set(THOROUGH)))
def test_values_of_every_family(name, tmp_path):
    contract.check_values(name, tmp_path)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ALL)
def test_structure_and_gradients_of_every_twin(name):
    contract.check_structure(name)
    contract.check_gradients(name)


@pytest.mark.zoo
@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", SMALLEST)
def test_more_sizes_of_every_family(name, layout):
    contract.check_sizes(name, layout)


@pytest.mark.zoo
@pytest.mark.parametrize("layout", ["preserve", "paper"])
@pytest.mark.parametrize("name", ALL)
def test_sizes_of_every_twin(name, layout):
    contract.check_sizes(name, layout, sizes=[None, (97, 131)])
