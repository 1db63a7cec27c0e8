"""Fine-tuning: the pretrained weights' own configuration decides how images come, and a line says so."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.support.tiny_run import main, write_images
from timm_asap.errors import UserError
from timm_asap.training import make_plan, parse
from timm_asap.training.setup import pixels_of_weights
from timm_asap.zoo import check_model_name

SMALL = "resnet20_lowres_asap.fashion_mnist"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of pictures that are larger than 64 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for level, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (80, 96, 3)) + 120 * level
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")
    return folder


def plan(photos, *words):
    return make_plan(parse(["--dataset", "imagefolder", "--data-dir", str(photos), "--batch-size", "8", *words]))


def test_a_small_network_sees_photographs_at_its_own_size(photos):
    found = plan(photos, "--model", SMALL, "--pretrained")
    assert found.pixels.input_size == found.train_size == (3, 32, 32)
    # one channel's mean for each of three: timm repeats the first convolution's weights over them
    assert (found.pixels.mean, found.pixels.std) == ((0.2187,) * 3, (0.3316,) * 3)
    (note,) = [note for note in found.config.notes if "as the weights" in note]
    assert note == (
        f"images of 32 x 32 pixels, mean 0.2187, std 0.3316: as the weights of {SMALL} were trained (--image-size)"
    )


def test_a_size_that_was_typed_stays(photos):
    found = plan(photos, "--model", SMALL, "--pretrained", "--image-size", "48")
    assert found.pixels.input_size == (3, 48, 48)
    (note,) = [note for note in found.config.notes if "as the weights" in note]
    assert note.startswith("images of 48 x 48 pixels, mean 0.2187")
    assert "--image-size" not in note


def test_random_weights_see_what_the_data_have(photos):
    found = plan(photos, "--model", SMALL.partition(".")[0])
    assert found.pixels.input_size == (3, 224, 224)
    assert not [note for note in found.config.notes if "as the weights" in note]


def test_what_is_saved_takes_photographs_as_it_was_trained(photos, tmp_path):
    words = ["--model", SMALL, "--pretrained", "--dataset", "imagefolder", "--data-dir", str(photos)]
    assert main([*words, "--epochs", "1", "--batch-size", "8", "--output", str(tmp_path / "run")]) == 0
    cfg = json.loads((tmp_path / "run" / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == ([3, 32, 32], [0.2187] * 3, [0.3316] * 3)
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_small_images_keep_their_size(tmp_path):
    data_dir = write_images(tmp_path / "idx")
    words = ["--dataset", "idx", "--data-dir", str(data_dir), "--batch-size", "8", "--model", SMALL, "--pretrained"]
    found = make_plan(parse(words))
    assert found.pixels.input_size == (1, 32, 32)
    assert found.pixels.mean == (0.2187,)
    (note,) = [note for note in found.config.notes if "as the weights" in note]
    assert note.startswith("mean 0.2187, std 0.3316: as the weights")


@pytest.mark.parametrize(
    ("own", "channels", "mean"),
    [((0.25,), 3, (0.25, 0.25, 0.25)), ((0.1, 0.2, 0.6), 1, (0.3,)), ((0.1, 0.2, 0.6), 3, (0.1, 0.2, 0.6))],
)
def test_channels_that_the_weights_do_not_have(own, channels, mean):
    model = torch.nn.Module()
    model.pretrained_cfg = {"mean": own, "std": own, "input_size": (len(own), 20, 24)}
    size, found, _ = pixels_of_weights(model, channels)
    assert size == (channels, 20, 24)
    assert found == pytest.approx(mean)


def test_the_tags_that_have_weights_are_named(photos):
    with pytest.raises(UserError, match=f"resnet20_lowres_asap has no pretrained weights; with weights: {SMALL}"):
        plan(photos, "--model", "resnet20_lowres_asap", "--pretrained")
    with pytest.raises(UserError, match="wide_resnet28_10_lowres has no pretrained weights: train it first"):
        check_model_name("wide_resnet28_10_lowres", pretrained=True)
