"""Other people's programs take the twins after `import timm_asap` alone; each part runs where its package installs."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.feature_extraction import create_feature_extractor

import timm_asap

ROOT = Path(__file__).parents[1]

# What timm's validate.py and benchmark.py do with a model's name, and an import of a neighbor as train.py has it.
SCRIPT = """
import argparse, sys
import neighbor
from timm import create_model, is_model
from timm.data import resolve_data_config

parser = argparse.ArgumentParser()
parser.add_argument("--model")
args = parser.parse_args()

def main():
    assert is_model(args.model), args.model
    model = create_model(args.model, num_classes=3)
    print(sys.argv[0], type(model).__name__, resolve_data_config(vars(args), model=model)["input_size"], neighbor.x)
    sys.exit(7)

if __name__ == "__main__":
    main()
"""


BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8"), re.M | re.S
)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(_imported(block)) or "torch")
def test_the_blocks_of_the_page_run(block, tmp_path, monkeypatch):
    for package in _imported(block):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other packages
        exec(compile(block, "docs/integrations.md", "exec"), {"__name__": "block"})


def _imported(block):
    """The packages of a block that this one does not need."""
    named = re.findall(r"^(?:import|from) (\w+)", block, re.M)
    return [name for name in named if name in ("transformers", "segmentation_models_pytorch", "lightning", "fastai")]


def run(*words, cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_script_of_timm_knows_the_twins(tmp_path):
    folder = tmp_path / "pytorch-image-models"
    folder.mkdir()
    (folder / "neighbor.py").write_text("x = 5")
    (folder / "validate.py").write_text(SCRIPT)
    script = "pytorch-image-models/validate.py"
    done = run("-m", "timm_asap.timm", script, "--model", "test_resnet_asap", cwd=tmp_path)
    assert done.stdout == f"{script} ResNet (3, 160, 160) 5\n", done.stderr
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: python -m timm_asap.timm SCRIPT [ARGUMENTS]"),
        (["validate.py", "--model", "x"], "there is no file validate.py: timm's scripts lie at the top level"),
    ],
)
def test_no_script_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    from timm_asap.timm import main

    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"python -m timm_asap.timm: error: {said}")


def test_maps_of_a_named_layer_are_the_networks_own():
    model = timm.create_model("test_resnet_asap").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = create_feature_extractor(model, {"layer3": "x"})(images)["x"]
        expected = model.forward_intermediates(images, intermediates_only=True, indices=[3])[0]
    assert torch.equal(found, expected)


def test_encoders_and_backbones_are_alias_free():
    smp = pytest.importorskip("segmentation_models_pytorch")
    transformers = pytest.importorskip("transformers")
    encoder = smp.encoders.get_encoder("tu-test_resnet_asap", weights=None)
    config = transformers.TimmBackboneConfig(backbone="test_resnet_asap", use_pretrained_backbone=False)
    for module in (encoder, transformers.TimmBackbone(config)):
        assert timm_asap.conversion_of(module)["converted"]
