"""The adapted ImageNet backbone inside the package: loads offline, in timm and transformers, and classifies."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sklearn.datasets
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.imagenet.bed import KNOWN
from timm_asap.zoo.shipped import WEIGHTS, is_adapted, model_cards
from timm_asap.zoo.summary import shown_tags, weights_state

NAME = "tf_efficientnet_lite0_asap.adapted_in1k"
DATA = Path(__file__).parents[1] / "goldens"
if not (WEIGHTS / f"{NAME}.safetensors").is_file():
    pytest.skip(f"{NAME} is not shipped yet: python -m benchmarks.imagenet.ship RUN", allow_module_level=True)

# scikit-image's coffee (Rachel Michetti, CC0) and camera (Lav Varshney, CC0), reduced; scikit-learn brings the others.
PLACES = {
    "china.jpg": Path(sklearn.datasets.__file__).parent / "images",
    "flower.jpg": Path(sklearn.datasets.__file__).parent / "images",
    "coffee.png": DATA,
    "camera.png": DATA,
}
# Logits of the four pictures, in the order of KNOWN.
RECORDED = DATA / "adapted_lite0_logits.safetensors"


def pictures(model):
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    paths = [
        folder / (name if (folder / name).is_file() else f"{Path(name).stem}.jpg") for name, folder in PLACES.items()
    ]
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


@pytest.fixture(scope="module")
def model():
    return timm.create_model(NAME, pretrained=True).eval()


def test_known_pictures_come_out_right(model):
    with torch.no_grad():
        logits = model(pictures(model))
    names = [model.pretrained_cfg["label_names"][i] for i in logits.argmax(dim=1)]
    assert dict(zip(KNOWN, names, strict=True)) == KNOWN
    torch.testing.assert_close(logits, load_file(RECORDED)["logits"], rtol=1e-3, atol=1e-3)


def test_is_what_the_bare_name_means(model):
    same = timm.create_model("tf_efficientnet_lite0_asap", pretrained=True)
    assert torch.equal(same.conv_stem.weight, model.conv_stem.weight)
    assert timm.create_model("tf_efficientnet_lite0_asap.in1k").pretrained_cfg["tag"] == "in1k"


def test_its_origin_is_kept(model):
    assert model.pretrained_cfg["license"] == "apache-2.0"
    assert len(set(model.pretrained_cfg["label_names"])) == model.num_classes == 1000
    assert is_adapted(NAME)
    assert [weights_state(f"{n}") for n in (NAME, "tf_efficientnet_lite0_asap.in1k")] == ["adapted", "upstream"]
    assert weights_state("resnet20_lowres_asap.fashion_mnist") == "trained"
    assert shown_tags("tf_efficientnet_lite0_asap") == "adapted_in1k+, in1k"
    card = (model_cards() / f"{NAME}.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "tf_efficientnet_lite0.in1k" in card
    assert "No label was used" in card
    assert (WEIGHTS / f"{NAME}.safetensors").stat().st_size < 10.5e6


def test_loads_offline_in_timm_and_transformers(tmp_path, model):
    """In a process of its own, which may not ask the Hub for anything."""
    pytest.importorskip("transformers")
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copyfile(WEIGHTS / f"{NAME}.safetensors", folder / "model.safetensors")
    shutil.copyfile(WEIGHTS / f"{NAME}.json", folder / "config.json")
    program = f"""
import json, timm, torch, timm_asap
from transformers import AutoModelForImageClassification
own = timm.create_model({NAME!r}, pretrained=True).eval()
other = AutoModelForImageClassification.from_pretrained({str(folder)!r}, dtype=torch.float32).eval()
x = torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224)
with torch.no_grad():
    print(json.dumps([own(x)[0, :5].tolist(), other(x).logits[0, :5].tolist()]))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    own, other = json.loads(done.stdout.strip().splitlines()[-1])
    assert own == pytest.approx(other, rel=1e-4, abs=1e-4)
    with torch.no_grad():
        assert own == pytest.approx(
            model(torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224))[0, :5].tolist(), rel=1e-4, abs=1e-4
        )


def test_can_be_fine_tuned_to_other_classes_and_sizes(model):
    small = timm.create_model(NAME, pretrained=True, num_classes=10, in_chans=1)
    assert small(torch.zeros(2, 1, 96, 96)).shape == (2, 10)
    assert torch.equal(small.blocks[3][0].conv_dw.weight, model.blocks[3][0].conv_dw.weight)
