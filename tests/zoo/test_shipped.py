"""The weights inside the package: they load offline, are the study's, and answer as it recorded."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import timm_asap
from benchmarks.study.cards import CARDS
from benchmarks.study.ship import shipped_records
from timm_asap.cli import main
from timm_asap.data import build_loader
from timm_asap.data.idx import load_fashion_mnist
from timm_asap.evaluation.models import open_model, weights_sha256
from timm_asap.hub.cards.base_model import find_origin
from timm_asap.zoo.shipped import WEIGHTS, is_adapted
from timm_asap.zoo.summary import shown_tags

NAMES = ["resnet20_lowres.fashion_mnist", "resnet20_lowres_asap.fashion_mnist"]
RECORDS = shipped_records()
# The first images of Fashion-MNIST's test set (Xiao, Rasul and Vollgraf, 2017, arXiv 1708.07747, MIT license), framed.
SAMPLE = load_file(Path(__file__).parents[1] / "goldens" / "fashion_mnist_sample.safetensors")
# Where Debian's package dataset-fashion-mnist puts it.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def answers(model, images):
    cfg = model.pretrained_cfg
    mean, std = torch.tensor(cfg["mean"]).view(-1, 1, 1), torch.tensor(cfg["std"]).view(-1, 1, 1)
    with torch.inference_mode():
        return model((images / 255 - mean) / std).argmax(dim=1)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_they_are_all_that_is_shipped():
    trained = [path for path in sorted(WEIGHTS.glob("*.safetensors")) if not is_adapted(path.stem)]
    assert [path.stem for path in trained] == NAMES == sorted(RECORDS)
    assert sum(path.stat().st_size for path in trained) < 3e6


def test_timm_finds_and_loads_them(name):
    assert name in timm.list_models(pretrained=True)
    model = timm.create_model(name, pretrained=True)
    assert weights_sha256(model) == RECORDS[name].content["weights_sha256"]
    assert model.pretrained_cfg["architecture"] == name.partition(".")[0]
    assert model.pretrained_cfg["license"] == "mit"
    assert model.pretrained_cfg["label_names"][9] == "Ankle boot"
    assert "notes" not in model.pretrained_cfg  # upstream's weights have one
    assert timm_asap.load(name).num_classes == 10


def test_they_answer_as_the_study_recorded(name):
    model = timm.create_model(name, pretrained=True).eval()
    right = answers(model, SAMPLE["images"]) == SAMPLE["labels"]
    assert right.to(torch.uint8).tolist() == RECORDS[name].clean[: len(right)].tolist()
    assert 0.85 < right.float().mean() < 1


def test_they_can_be_fine_tuned_to_other_classes_and_channels(name):
    images = SAMPLE["images"][:8] / 255
    own = timm.create_model(name, pretrained=True).eval()
    rgb = timm.create_model(name, pretrained=True, in_chans=3).eval()
    torch.testing.assert_close(rgb(images.repeat(1, 3, 1, 1)), own(images), rtol=1e-4, atol=1e-4)
    assert timm.create_model(name, pretrained=True, num_classes=4)(images).shape == (8, 4)
    assert len(timm.create_model(name, pretrained=True, features_only=True)(images)) == 4


def test_a_network_without_weights_takes_rgb_as_before(name):
    model = timm.create_model(name.partition(".")[0])
    assert model.pretrained_cfg["tag"] == "untrained"
    assert model.conv1.weight.shape[1] == 3


def test_the_twins_weights_are_its_own(name):
    assert find_origin(name, pretrained=True).name == name
    assert find_origin(name, pretrained=True).stated_by == "timm_asap"
    plain, twin = (load_file(WEIGHTS / f"{n}.safetensors") for n in NAMES)
    assert not torch.equal(plain["conv1.weight"], twin["conv1.weight"])
    assert shown_tags("resnet20_lowres_asap") == "fashion_mnist*"


def test_the_cards_are_of_these_weights(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert f"# {name}" in text
    assert f'timm.create_model("{name}", pretrained=True)' in text
    assert "ImageOps.expand(image, (2, 2, 2, 2))" in text
    assert "local-dir:" not in text
    assert f"{RECORDS[name].content['training']['test_accuracy']:.2f}" in text


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_recorded_accuracy_is_that_of_the_real_data(name):
    opened = open_model(name)
    dataset = load_fashion_mnist(FASHION_MNIST)
    loader = build_loader(dataset.test, dataset, 250, training=False)
    right = 0
    for images, labels in loader:
        # the loader normalizes by the data set's own statistics
        pixels = images * torch.tensor(dataset.std).view(-1, 1, 1) + torch.tensor(dataset.mean).view(-1, 1, 1)
        right += (answers(opened.network, pixels * 255) == labels).sum().item()
    assert right / 100 == pytest.approx(100 * RECORDS[name].clean.mean(), abs=0.02)


def test_what_is_converted_are_the_weights_that_were_named(name, tmp_path):
    folder = tmp_path / "converted"
    assert main(["convert", name, "--output", str(folder)]) == 0
    converted = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert converted.pretrained_cfg["architecture"] == "resnet20_lowres_asap"
    assert torch.equal(converted.conv1.weight, load_file(WEIGHTS / f"{name}.safetensors")["conv1.weight"])
    named = timm.create_model(name, pretrained=True)
    assert tuple(converted.pretrained_cfg["mean"]) == named.pretrained_cfg["mean"]
    assert "file" not in json.loads((folder / "config.json").read_text())["pretrained_cfg"]
