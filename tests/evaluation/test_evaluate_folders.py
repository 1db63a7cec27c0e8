"""ImageNet-C, CIFAR-10-C and folders of classes, made small, and measured as they are."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tests.support.tiny_evaluation import evaluate, record_of, write_model
from timm_asap.adversarial import PixelModel
from timm_asap.evaluation.models import open_model

SYNSETS = ("n01440764", "n01443537", "n01484850")


def classify(folder, images, classes):
    """The model's predictions among some classes, for uint8 (N, H, W, 3) images."""
    opened = open_model(str(folder))
    model = PixelModel(opened.network, opened.pixels.mean, opened.pixels.std).eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return model(pixels)[:, classes].argmax(dim=1).numpy()


@pytest.fixture(scope="module")
def cifar_model(tmp_path_factory):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    pixels = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return write_model(tmp_path_factory.mktemp("cifar") / "model", label_names=names, **pixels)


@pytest.fixture(scope="module")
def imagenet_model(tmp_path_factory):
    pixels = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 0.8}
    folder = tmp_path_factory.mktemp("imagenet") / "model"
    return write_model(folder, label_names=[f"class {n}" for n in range(1000)], **pixels)


@pytest.fixture(scope="module")
def nameless_model(tmp_path_factory):
    """With 1,000 classes and no names, as timm's own."""
    import json

    pixels = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    folder = write_model(
        tmp_path_factory.mktemp("nameless") / "model", label_names=[str(n) for n in range(1000)], **pixels
    )
    config = json.loads((folder / "config.json").read_text())
    del config["label_names"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def colorful(rng, shape):
    """Noise around a color of each image's own: a network with random weights tells them apart."""
    colors = rng.integers(20, 236, (*shape[:-3], 1, 1, 3))
    return (colors + rng.integers(-20, 20, shape)).astype(np.uint8)


def right_of(folder, result_id):
    with safe_open(folder / "evaluation.safetensors", framework="np") as file:
        return file.get_tensor(result_id).astype(bool)


def write_cifar10_c(folder, per_severity=12):
    rng = np.random.default_rng(0)
    labels = np.tile(rng.integers(0, 10, per_severity), 5)
    np.save(folder / "labels.npy", labels.astype(np.uint8))
    images = {}
    for name in ("fog", "frost"):
        images[name] = colorful(rng, (5 * per_severity, 32, 32, 3))
        np.save(folder / f"{name}.npy", images[name])
    return images, labels


def test_cifar10_c_is_read_as_it_is(cifar_model, tmp_path):
    images, labels = write_cifar10_c(tmp_path)
    words = ["--dataset", "cifar10-c", "--data-dir", tmp_path, "--corruptions", "fog,frost", "--severities", "2", "5"]
    assert evaluate(cifar_model, *words, "--output", tmp_path / "e", "--batch-size", "4") == 0
    record = record_of(tmp_path / "e")
    assert record["data"]["images"] == 12
    assert [r["id"] for r in record["results"]] == [f"corruption/{n}/{s}" for n in ("fog", "frost") for s in (2, 5)]
    for result in record["results"]:
        rows = slice((result["severity"] - 1) * 12, result["severity"] * 12)
        answers = classify(cifar_model, images[result["corruption"]][rows], range(10))
        assert len(set(answers)) > 1
        assert np.array_equal(right_of(tmp_path / "e", result["id"]), answers == labels[rows])
        assert (result["table"], result["seed"], result["approximate"]) == ("cifar", None, None)
    assert (tmp_path / "e" / "plots" / "contact_sheet.png").is_file()


def test_corrupted_images_show_corruptions_alone(cifar_model, tmp_path, capsys):
    write_cifar10_c(tmp_path)
    words = ["--dataset", "cifar10-c", "--data-dir", tmp_path, "--corruptions", "fog", "--measures", "clean,attacks"]
    assert evaluate(cifar_model, *words, "--output", tmp_path / "e") == 2
    assert "holds corrupted images: expected --measures corruptions, got clean attacks" in capsys.readouterr().err
    assert evaluate(cifar_model, *words[:5], "snow", "--output", tmp_path / "e") == 2
    assert "snow.npy is missing" in capsys.readouterr().err


def write_class_folders(folder, names, per_class=8, side=64, seed=0):
    rng = np.random.default_rng(seed)
    images = []
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            image = colorful(rng, (side, side, 3))
            Image.fromarray(image).save(folder / name / f"{number}.png")
            images.append(image)
    return np.stack(images)


def test_imagenet_c_is_read_as_it_is(nameless_model, tmp_path, capsys):
    """Class subfolders of two corruptions, one in the folder of its group; no crop, and the classes of the synsets."""
    sets = {
        ("fog", 1): write_class_folders(tmp_path / "weather" / "fog" / "1", SYNSETS, seed=1),
        ("fog", 3): write_class_folders(tmp_path / "weather" / "fog" / "3", SYNSETS, seed=2),
        ("contrast", 1): write_class_folders(tmp_path / "contrast" / "1", SYNSETS, seed=3),
        ("contrast", 3): write_class_folders(tmp_path / "contrast" / "3", SYNSETS, seed=4),
    }
    words = ["--dataset", "imagenet-c", "--data-dir", tmp_path, "--corruptions", "fog,contrast", "--severities", "1"]
    assert evaluate(nameless_model, *words, "3", "--output", tmp_path / "e", "--no-plots") == 0
    record = record_of(tmp_path / "e")
    assert record["data"]["label_names"] == list(SYNSETS)
    assert len(record["results"]) == 4
    for result in record["results"]:
        images = sets[result["corruption"], result["severity"]]
        answers = classify(nameless_model, images, [0, 1, 2])
        assert len(set(answers)) > 1
        assert np.array_equal(right_of(tmp_path / "e", result["id"]), answers == np.repeat([0, 1, 2], 8))
    assert evaluate(nameless_model, *words, "2", "--output", tmp_path / "no") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert evaluate(nameless_model, *words[:5], "snow", "--output", tmp_path / "no") == 2
    assert "holds no snow: expected snow/1 to snow/5 in it" in capsys.readouterr().err


def test_a_set_of_some_classes_is_measured_whole(nameless_model, tmp_path):
    """ImageNet-A and -R: every image, and a choice among the classes that are there."""
    images = write_class_folders(tmp_path / "a", SYNSETS[1:])
    words = ["--dataset", "imagenet-a", "--data-dir", tmp_path / "a", "--measures", "clean", "--no-plots"]
    assert evaluate(nameless_model, *words, "--output", tmp_path / "e") == 0
    record = record_of(tmp_path / "e")
    assert (record["data"]["split"], record["data"]["classes"]) == ("all", 2)
    (clean,) = record["results"]
    answers = classify(nameless_model, images, [1, 2])
    assert len(set(answers)) == 2
    assert clean["images"] == 16
    assert np.array_equal(right_of(tmp_path / "e", "clean"), answers == np.repeat([0, 1], 8))


def test_every_image_of_a_data_set_that_nobody_trained_on(imagenet_model, tmp_path):
    digits = write_model(tmp_path / "digits")
    words = ["--dataset", "digits", "--split", "all", "--measures", "clean", "--no-plots"]
    assert evaluate(digits, *words, "--output", tmp_path / "e") == 0
    record = record_of(tmp_path / "e")
    assert record["data"]["images"] == record["results"][0]["images"] == 1797
    assert record["data"]["split"] == "all: train and held-out fifth, seed 0"


def test_large_images_are_cropped_as_the_model_says(imagenet_model, tmp_path):
    """crop_pct 0.8: 80 pixels a side, of which the center 64 are kept."""
    names = [f"class {n}" for n in (3, 5)]
    images = write_class_folders(tmp_path / "set", names, side=80)
    words = ["--dataset", "class-folders", "--data-dir", tmp_path / "set", "--measures", "clean", "--no-plots"]
    assert evaluate(imagenet_model, *words, "--output", tmp_path / "e") == 0
    answers = classify(imagenet_model, np.ascontiguousarray(images[:, 8:72, 8:72]), [3, 5])
    assert len(set(answers)) == 2
    assert np.array_equal(right_of(tmp_path / "e", "clean"), answers == np.repeat([0, 1], 8))


def test_a_folder_without_images(nameless_model, tmp_path, capsys):
    words = ["--dataset", "imagenet-r", "--data-dir", tmp_path / "set"]
    assert evaluate(nameless_model, *words) == 2
    assert "expected one with a subfolder of images per class" in capsys.readouterr().err
    (tmp_path / "set" / "n01440764").mkdir(parents=True)
    assert evaluate(nameless_model, *words) == 2
    assert "holds no images: expected one folder of images per class" in capsys.readouterr().err
    assert evaluate(nameless_model, *words, "--image-key", "x") == 2
    assert "takes no --image-key: leave it out" in capsys.readouterr().err
