"""Under every release of timm: the twins that it has are the same networks, and a timm that does not fit is one line.

`.ci/run` runs this file under the oldest release and one between, besides the newest.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models import is_model

import timm_asap
from tests.support import twin_fingerprint
from timm_asap import _timm
from timm_asap._installation import NEWEST_TIMM, OLDEST_TIMM
from timm_asap.errors import UserError
from timm_asap.zoo import create_model

ROOT = Path(__file__).parents[1]
KNOWN = twin_fingerprint.known()
# a second each, with scores
FAST = [
    "test_byobnet_asap",
    "test_convnext_asap",
    "test_efficientnet_asap",
    "test_mambaout_asap",
    "test_resnet_asap",
    "pit_ti_224_asap",
    "regnetx_002_asap",
    "resnet20_lowres_asap",
    "starnet_s050_asap",
    "legacy_xception_asap",
]


@pytest.mark.parametrize("twin", [pytest.param(t, marks=() if t in FAST else pytest.mark.zoo) for t in KNOWN])
def test_a_twin_is_the_same_network_under_every_timm(twin):
    if not is_model(twin):
        pytest.skip(f"timm {timm.__version__} is older than its family")
    expected = dict(KNOWN[twin])
    if twin == "vitamin_small_224_asap" and timm.get_pretrained_cfg("vitamin_small_224").num_classes == 384:
        pytest.skip("timm to 1.0.22 stated another number of classes for these weights")
    scores = expected.pop("logits", None)
    assert twin_fingerprint.structure(twin) == expected
    if scores is not None:
        torch.testing.assert_close(twin_fingerprint.logits(twin), scores, rtol=1e-3, atol=1e-4)


def test_own_arguments_survive_saving(tmp_path):
    """timm notes a network's keywords itself from 1.0.31 on."""
    arguments = {"num_classes": 3, "in_chans": 1, "asap_layout": "paper", "asap_window": "hamming"}
    model = create_model("test_resnet_asap", **arguments).eval()
    pixels = {"input_size": (1, 48, 40), "mean": (0.2,), "std": (0.3,)}
    _timm.save_for_hf(model, tmp_path, {"label_names": ["a", "b", "c"]}, pixels)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert repr(loaded) == repr(model)
    images = torch.rand(2, 1, 48, 40)
    assert torch.equal(loaded(images), model(images))
    for key, value in pixels.items():
        assert tuple(loaded.pretrained_cfg[key]) == value
    assert timm_asap.load(f"local-dir:{tmp_path}").pretrained_cfg["label_names"] == ("a", "b", "c")
    plain = create_model("test_resnet", num_classes=3, in_chans=1)
    _timm.save_for_hf(plain, tmp_path / "plain")
    assert create_model(f"local-dir:{tmp_path}/plain", pretrained=True)._model_args["in_chans"] == 1


def test_a_hub_that_timm_does_not_take_is_one_line(monkeypatch, tmp_path):
    model = create_model("test_resnet_asap", num_classes=3)
    _timm.save_for_hf(model, tmp_path / "net")
    monkeypatch.setattr(timm.models._hub, "_has_hf_hub", False)  # as timm 1.0.20 has it under huggingface_hub 2
    said = f"timm {re.escape(timm.__version__)} does not take huggingface-hub .*: pip install 'huggingface-hub<2', or"
    with pytest.raises(UserError, match=said):
        _timm.save_for_hf(model, tmp_path / "other")


def test_reset_keeps_device_and_dtype():
    model = timm.create_model("resnet20_lowres_asap", device="cpu", dtype=torch.float64, num_classes=0)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    model.reset_classifier(4, "catavgmax")
    assert model.get_classifier().weight.dtype == torch.float64
    assert model.head_hidden_size == 2 * model.num_features
    assert model(torch.rand(1, 3, 32, 32, dtype=torch.float64)).shape == (1, 4)


def test_the_range_is_that_of_pyproject_and_docs():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"timm>={OLDEST_TIMM}"' in project
    assert f"{OLDEST_TIMM} to {NEWEST_TIMM}" in (ROOT / "timm_asap" / "_timm.py").read_text(encoding="utf-8")
    assert f"{OLDEST_TIMM} to {NEWEST_TIMM}" in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def run(program, *words):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *(words or ("-c", program))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def last_line(program):
    done = run(program)
    assert done.returncode == 1
    assert "During handling" not in done.stderr
    assert "The above exception" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "fake",
    [
        "timm.models._builder.resolve_pretrained_cfg",
        "timm.layers.BlurPool2d",
    ],
)
def test_a_newer_timm_that_lacks_something_is_one_line(fake):
    program = f"import timm.models\ntimm.__version__ = '1.9.0'\ndel {fake}\n"
    said = last_line(program + "import timm_asap")
    name = fake.rpartition(".")[2]
    assert re.fullmatch(
        rf"timm_asap\.\w+\.InstallationError: timm_asap does not work with timm 1\.9\.0 \(.*{name}.*\); "
        rf"{OLDEST_TIMM} to {NEWEST_TIMM} were tested: pip install -U timm_asap, or pip install "
        rf"'timm>={OLDEST_TIMM},<={NEWEST_TIMM}'",
        said,
    ), said


def test_a_newer_timm_that_has_everything_works():
    done = run(
        "import timm.models\ntimm.__version__ = '1.9.0'\nimport timm_asap\nprint(timm.is_model('resnet18_asap'))"
    )
    assert done.stdout.strip() == "True", done.stderr


def test_an_older_timm_is_one_line():
    said = last_line(
        "import timm.models\ntimm.__version__ = '0.9.16'\ndel timm.models.FeatureGraphNet\nimport timm_asap"
    )
    assert said.endswith(f"timm 0.9.16 is older than timm_asap takes ({OLDEST_TIMM} or newer): pip install -U timm")


def test_the_program_says_it_in_one_line_too(tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("__version__ = '2.0.0'\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "timm_asap", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("timm-asap: error: timm_asap does not work with timm 2.0.0")
