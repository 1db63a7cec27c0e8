"""Which class of the data is which of the model's: by name, or in an order that is asked for and never guessed."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from tests.support.tiny_evaluation import evaluate, record_of
from tests.support.tiny_run import main as train_main
from timm_asap.cli import main
from timm_asap.data import load_dataset
from timm_asap.data.columns import in_order
from timm_asap.data.labels import match_labels, renumbered
from timm_asap.errors import UserError
from timm_asap.evaluation.statistics import below_chance

NATURAL = tuple(f"class{number}" for number in range(2, 14))
ALPHABETICAL = tuple(sorted(NATURAL))
PIXELS = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic", "crop_pct": 1.0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve classes, each of a color of its own, as train and test."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    colors = rng.integers(20, 236, (12, 3))
    for split, count in (("train", 10), ("test", 6)):
        for name, color in zip(NATURAL, colors, strict=True):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-12, 13, (32, 32, 3))
                Image.fromarray((color + noise).astype(np.uint8)).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def network(photos, tmp_path_factory):
    """As timm trains it on those folders: classes in natural order, and no names in its configuration."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=12).eval()
    data = load_dataset("imagefolder", photos, class_order="natural")
    assert data.label_names == NATURAL
    with torch.no_grad():
        pixels = (data.train.images.float() / 255 - 0.5) / 0.25
        features = model.forward_head(model.forward_features(pixels), pre_logits=True).double()
        centered = features - features.mean(dim=0)
        targets = torch.nn.functional.one_hot(data.train.labels, 12).double() - 1 / 12
        gram = centered.T @ centered
        gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
        weight = 20 * torch.linalg.solve(gram, centered.T @ targets).T
        model.get_classifier().weight.copy_(weight)
        model.get_classifier().bias.copy_(-weight @ features.mean(dim=0))
    folder = tmp_path_factory.mktemp("network") / "timm"
    save_for_hf(model, str(folder), safe_serialization=True, data_config={**PIXELS, "input_size": (3, 32, 32)})
    config = json.loads((folder / "config.json").read_text())
    assert "label_names" not in config
    return folder


def words(photos, output, *more):
    about = ["--dataset", "imagefolder", "--data-dir", photos, "--measures", "clean", "--no-plots", "--output", output]
    return [*about, *more]


def test_the_order_is_asked_for_where_no_names_say_it(network, photos, tmp_path, capsys):
    for data in (("imagefolder", photos), ("class-folders", photos / "test")):
        asked = words(data[1], tmp_path / "e")
        asked[1] = data[0]
        assert evaluate(network, *asked) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "--class-order natural (class2, class3, class4, class5, ...)" in error
        assert "--class-order alphabetical (class10, class11, class12, class13, ...)" in error
        assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("dataset", ["imagefolder", "class-folders"])
def test_the_order_that_is_said_counts_and_accuracy_below_chance_warns(network, photos, tmp_path, capsys, dataset):
    accuracy = {}
    for order in ("natural", "alphabetical"):
        asked = words(photos, tmp_path / order, "--class-order", order)
        asked[1] = dataset
        asked[3] = photos / "test" if dataset == "class-folders" else photos
        assert evaluate(network, *asked) == 0
        printed = capsys.readouterr()
        accuracy[order] = record_of(tmp_path / order)["summary"]["clean_accuracy"]
        assert record_of(tmp_path / order)["data"]["label_names"] == list(in_order(NATURAL, order))
        doubt = f"accuracy {accuracy[order]:.2f} % is below chance (8.33 % for 12 classes)"
        assert (doubt in printed.err) == (order == "alphabetical")
        assert printed.out.startswith(f"72 images of {'test' if dataset == 'imagefolder' else 'all'}: ")
    assert accuracy["natural"] > 90
    assert accuracy["alphabetical"] < 20


def test_names_in_the_configuration_need_no_order(network, photos, tmp_path):
    config = json.loads((network / "config.json").read_text())
    named = tmp_path / "named"
    named.mkdir()
    (named / "model.safetensors").write_bytes((network / "model.safetensors").read_bytes())
    (named / "config.json").write_text(json.dumps({**config, "label_names": list(NATURAL)}))
    assert evaluate(named, *words(photos, tmp_path / "e")) == 0
    assert record_of(tmp_path / "e")["summary"]["clean_accuracy"] > 90


def test_healing_asks_and_writes_the_names_in_the_models_order(network, photos, tmp_path, capsys):
    heal = [
        "heal",
        str(network),
        "--dataset",
        "imagefolder",
        "--data-dir",
        str(photos),
        "--output",
        str(tmp_path / "h"),
    ]
    assert main(heal) == 2
    assert "give --class-order natural" in capsys.readouterr().err
    assert main([*heal, "--class-order", "natural"]) == 0
    assert json.loads((tmp_path / "h" / "config.json").read_text())["label_names"] == list(NATURAL)
    assert json.loads((tmp_path / "h" / "heal.json").read_text())["accuracy"]["plain"] > 90
    # and with names in its configuration, whatever the order of the data
    capsys.readouterr()
    assert evaluate(tmp_path / "h", *words(photos, tmp_path / "e")) == 0
    healed = json.loads((tmp_path / "h" / "heal.json").read_text())["accuracy"]["healed"]
    assert record_of(tmp_path / "e")["summary"]["clean_accuracy"] == pytest.approx(healed)


def test_a_teachers_classes_are_matched(network, photos, tmp_path, capsys):
    flags = ["--model", "test_resnet", "--dataset", "imagefolder", "--data-dir", str(photos), "--epochs", "1"]
    flags += [
        "--batch-size",
        "24",
        "--lr",
        "0.01",
        "--teacher",
        f"local-dir:{network}",
        "--output",
        str(tmp_path / "run"),
    ]
    assert train_main(flags) == 2
    assert "--teacher" in capsys.readouterr().err
    assert train_main([*flags, "--class-order", "natural"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["label_names"] == list(NATURAL)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["label_names"] == list(NATURAL)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(
        "120 training images, 72 test images (test), 12 classes (class2, class3, class4, class5, class6,"
    )


# the parts


def test_orders():
    names = ["b10", "B2", "a", "Zebra", "ant", "b1", "m\u00b2", "10", "9"]
    assert in_order(names, "natural") == ("9", "10", "a", "ant", "b1", "B2", "b10", "m\u00b2", "Zebra")
    assert in_order(names, "alphabetical") == tuple(sorted(names))
    plain = [name for name in names if name != "m\u00b2"]  # at which timm's own stops
    assert in_order(plain, "natural") == tuple(sorted(sorted(plain), key=timm.utils.natural_key))


@pytest.mark.parametrize(
    ("data", "names", "classes", "order", "expected"),
    [
        (NATURAL, None, 12, None, list(range(12))),  # a data set's own order
        (NATURAL, None, 12, "natural", list(range(12))),
        (ALPHABETICAL, None, 12, "alphabetical", list(range(12))),
        (ALPHABETICAL, NATURAL, 12, None, [NATURAL.index(name) for name in ALPHABETICAL]),
        (ALPHABETICAL, None, 12, None, "say how it numbers them"),
        (("Zebra", "ant"), None, 2, None, "say how it numbers them"),
        (("0", "1", "10", "11", *"23456789"), None, 12, None, "say how it numbers them"),
        (("0", "1", "10", "11", *"23456789"), None, 12, "alphabetical", list(range(12))),
        (tuple(map(str, range(12))), None, 12, None, list(range(12))),
        (("ant", "bee"), None, 2, None, [0, 1]),
        (tuple(sorted(map(str, range(1000)))), None, 1000, None, [int(n) for n in sorted(map(str, range(1000)))]),
    ],
)
def test_match(data, names, classes, order, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            match_labels(data, names, classes, order)
    else:
        assert match_labels(data, names, classes, order) == expected


def test_classes_renumbered_as_the_models():
    data = load_dataset("digits")
    classes = [3, 1, 2, 0, *range(5, 10), 4]
    other = renumbered(data, classes)
    assert other.label_names == tuple("3120945678")
    for ours, theirs in ((data.train, other.train), (data.test, other.test)):
        assert torch.equal(torch.tensor(classes)[ours.labels], theirs.labels)
        names = [other.label_names[label] for label in theirs.labels.tolist()]
        assert names == [data.label_names[label] for label in ours.labels.tolist()]


def test_an_order_for_every_kind_of_labels(tmp_path):
    import datasets

    names = ["b10", "b9", "a"]
    rows = {"image": [{"bytes": _png(n), "path": None} for n in range(12)], "label": names * 4}
    strings = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    strings.to_parquet(tmp_path / "strings" / "train.parquet")
    own = strings.cast_column("label", datasets.ClassLabel(names=names))
    own.to_parquet(tmp_path / "own" / "train.parquet")
    for folder, default in (("strings", ("a", "b10", "b9")), ("own", ("b10", "b9", "a"))):
        for order, expected in ((None, default), ("natural", ("a", "b9", "b10")), ("alphabetical", ("a", "b10", "b9"))):
            data = load_dataset("parquet", tmp_path / folder, class_order=order)
            assert data.label_names == expected
            red = {int(image[0, 0, 0]): int(label) for image, label in zip(*_pixels(data), strict=True)}
            assert red == {n: expected.index(names[n % 3]) for n in red}
    with pytest.raises(
        UserError, match="--class-order: unknown order 'numeric': expected one of alphabetical, natural"
    ):
        load_dataset("parquet", tmp_path / "own", class_order="numeric")
    with pytest.raises(UserError, match="--label-names are in an order already: leave --class-order out"):
        load_dataset("parquet", tmp_path / "strings", class_order="natural", label_names=names)


def _png(number):
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(data):
    return torch.cat([data.train.images, data.test.images]), torch.cat([data.train.labels, data.test.labels])


def test_below_chance():
    assert below_chance(0.0, 72, 12).startswith("accuracy 0.00 % is below chance (8.33 % for 12 classes)")
    assert below_chance(0.0, 12, 12) is None  # may well happen by accident
    assert below_chance(8.0, 10_000, 12) is None
    assert below_chance(7.0, 10_000, 12) is not None
