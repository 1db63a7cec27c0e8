"""The data flags that all commands share, and local files whose paths are no patterns."""

import glob
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import numbered_png, parquet_shards, web_shards
from tests.support.tiny_evaluation import evaluate, record_of, write_model
from tests.support.tiny_run import main as train_main
from timm_asap.cli import main
from timm_asap.data import LazySplit, load_dataset
from timm_asap.data.config import DataConfig
from timm_asap.data.folder_tree import find_data_files, match_files
from timm_asap.errors import UserError

COMMANDS = {
    "train": lambda words: train_main(["--model", "test_resnet", *words]),
    "evaluate": lambda words: main(["evaluate", "nowhere/model", *words]),
    "heal": lambda words: main(["heal", "nowhere/model", "--output", "healed", *words]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_same_data_flags(command, capsys):
    with pytest.raises(SystemExit) as stop:
        COMMANDS[command](["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in DataConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    assert "corrupt INT" not in text


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Large images in two classes, of which one in each split and class is none, and a model for them."""
    root = tmp_path_factory.mktemp("damaged")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 5)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (70, 80, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            (folder / "3_broken.jpg").write_bytes(b"no image")
    pixels = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    write_model(root / "model", label_names=("cat", "dog"), **pixels)
    return root


def data_words(damaged, output, *more):
    return ["--dataset", "imagefolder", "--data-dir", str(damaged / "photos"), "--output", str(output), *more]


@pytest.mark.filterwarnings("ignore:left out")
class TestUnreadable:
    def test_evaluate_stops_or_leaves_out(self, damaged, tmp_path, capsys):
        words = data_words(damaged, tmp_path / "e", "--measures", "clean,aliasing", "--no-plots", "--batch-size", "4")
        assert evaluate(damaged / "model", *words) == 2
        assert "cannot read" in (error := capsys.readouterr().err)
        assert "3_broken.jpg: not an image" in error
        with pytest.warns(UserWarning, match=r"left out 2 of 12 images; the first: .*cat.3_broken\.jpg"):
            assert evaluate(damaged / "model", *words, "--skip-unreadable", "--overwrite") == 0
        record = record_of(tmp_path / "e")
        assert record["data"]["images"] == record["results"][0]["images"] == 10
        assert "--skip-unreadable" in record["produced_by"]["command"]
        shutil.rmtree(damaged / "repaired", ignore_errors=True)
        shutil.copytree(damaged / "photos", damaged / "repaired")
        for path in (damaged / "repaired").rglob("*_broken.jpg"):
            path.unlink()
        words[3], words[5] = str(damaged / "repaired"), str(tmp_path / "repaired")
        assert evaluate(damaged / "model", *words) == 0
        assert record_of(tmp_path / "repaired")["summary"] == record["summary"]

    def test_class_folders_and_all_splits(self, damaged, tmp_path):
        words = ["--dataset", "class-folders", "--data-dir", damaged / "photos" / "test", "--measures", "clean"]
        assert evaluate(damaged / "model", *words, "--no-plots", "--output", tmp_path / "e") == 2
        assert evaluate(damaged / "model", *words, "--no-plots", "--output", tmp_path / "e", "--skip-unreadable") == 0
        assert record_of(tmp_path / "e")["data"]["images"] == 10
        words = data_words(damaged, tmp_path / "all", "--split", "all", "--measures", "clean", "--no-plots")
        assert evaluate(damaged / "model", *words, "--skip-unreadable") == 0
        assert record_of(tmp_path / "all")["data"]["images"] == 26

    def test_heal_stops_or_leaves_out(self, damaged, tmp_path, capsys):
        words = ["heal", str(damaged / "model"), *data_words(damaged, tmp_path / "h"), "--batch-size", "4"]
        assert main(words) == 2
        assert "3_broken.jpg: not an image" in capsys.readouterr().err
        assert main([*words, "--skip-unreadable"]) == 0
        assert "healed with 16 images" in (out := capsys.readouterr().out)
        assert "accuracy on test (10 images)" in out
        assert json.loads((tmp_path / "h" / "heal.json").read_text())["test_images"] == 10

    def test_training_goes_on(self, damaged, tmp_path, capsys):
        words = ["--model", "test_resnet", *data_words(damaged, tmp_path / "run"), "--epochs", "1", "--batch-size", "4"]
        words += ["--image-size", "64", "--lr", "0.01"]
        assert train_main(words) == 2
        assert "3_broken.jpg: not an image" in capsys.readouterr().err
        with pytest.warns(UserWarning, match="skipping images that cannot be read"):
            assert train_main([*words, "--overwrite", "--skip-unreadable"]) == 0
        assert "on test (10 images)" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_old_name_of_the_flag_works_and_is_said(command, tmp_path, capsys):
    words = ["--dataset", "imagefolder", "--data-dir", str(tmp_path / "nowhere"), "--skip-corrupt"]
    assert COMMANDS[command](words) == 2
    said, error = capsys.readouterr().err.splitlines()
    assert said == "DeprecationWarning: --skip-corrupt is called --skip-unreadable now"
    assert "nowhere" in error


def test_an_older_runs_configuration_still_reads(tmp_path):
    from timm_asap.training.config import read_recipe

    (tmp_path / "config.yaml").write_text("dataset: digits\nskip_corrupt: true\n")
    assert read_recipe(tmp_path / "config.yaml") == {"dataset": "digits", "skip_unreadable": True}


# folders of evaluate


@pytest.mark.parametrize("wrap", ["", "imagenet-r/"])
def test_class_folders_are_found_as_elsewhere(damaged, tmp_path, wrap, capsys):
    for name in ("cat", "dog"):
        for number in range(4):
            path = tmp_path / "set" / f"{wrap}{name}" / "deep" / f"train {number}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(numbered_png(number, 70))
    (tmp_path / "set" / "__MACOSX" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "__MACOSX" / "cat" / "._0.png").write_bytes(b"")
    (tmp_path / "set" / "README.txt").write_text("about")
    words = ["--dataset", "class-folders", "--measures", "clean", "--no-plots", "--output", tmp_path / "e"]
    assert evaluate(damaged / "model", *words, "--data-dir", tmp_path / "set") == 0
    assert record_of(tmp_path / "e")["data"]["images"] == 8
    assert "not read: files that are no images, 1 (1 .txt)" in capsys.readouterr().out


def test_class_folders_of_several_splits_are_asked_about(damaged, tmp_path, capsys):
    words = ["--dataset", "class-folders", "--measures", "clean", "--data-dir", damaged / "photos"]
    assert evaluate(damaged / "model", *words) == 2
    assert "holds several splits (test, train): give one of them as --data-dir" in capsys.readouterr().err


# files with many images each


@pytest.mark.parametrize("name", ["my[1]", "a?b", "a*b", "[!x]", "new\nline", "-dash", "\u00fc \u4e2d"])
@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_paths_are_no_patterns(tmp_path, kind, name):
    shards = parquet_shards if kind == "parquet" else web_shards
    shards(shards(tmp_path / name, (5, 4)), (9,), split="test")
    shards(tmp_path / "axb", (30,))
    for data in (
        load_dataset(kind, tmp_path / name),
        load_dataset(str(tmp_path / name)) if kind == "parquet" else load_dataset(kind, tmp_path / name),
    ):
        assert (len(data.train), len(data.test)) == (9, 9)
    suffix = {"parquet": "parquet", "webdataset": "tar"}[kind]
    one = sorted(glob.glob(str(tmp_path / glob.escape(name) / f"test*.{suffix}")))[0]
    stream = load_dataset(kind, tmp_path / name, streaming=True, num_classes=9)
    assert len(list(stream.test.dataset)) == 9
    assert match_files(tmp_path / name / f"test*.{suffix}") == [one]


def test_linked_folders_of_files(tmp_path):
    parquet_shards(tmp_path / "store", (9,), classes=3)
    parquet_shards(tmp_path / "store", (6,), split="test", classes=3)
    os.symlink(tmp_path / "store", tmp_path / "link", target_is_directory=True)
    (tmp_path / "outer").mkdir()
    os.symlink(tmp_path / "store", tmp_path / "outer" / "inner", target_is_directory=True)
    for folder in ("link", "outer"):
        data = load_dataset("parquet", tmp_path / folder)
        assert (len(data.train), len(data.test)) == (9, 6)


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["a.tar", "b.tar"], {"train": 2}),
        (["train-0000.tar", "Test.tar", "my_val_2.tar"], {"train": 1, "test": 1, "validation": 1}),
        (["train/test-0.tar", "test/train-0.tar"], {"train": 1, "test": 1}),
        (["data/fold1-00000-of-00002.tar", "data/fold1-00001-of-00002.tar"], {"fold1": 2}),
        (["train.tar", "validation/x.tar", "data/test-00000-of-00001.tar"], {"train": 1, "validation": 1, "test": 1}),
        (["mytrain.tar", "contest.tar"], {"train": 2}),
        (["train.tar", "._train.tar", ".test.tar", "__MACOSX/test.tar", "train.tar.txt"], {"train": 2}),
    ],
)
def test_the_split_of_a_file(tmp_path, files, splits):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found, notes = find_data_files(tmp_path, "webdataset")
    assert {split: len(paths) for split, paths in found.items()} == splits
    assert notes == ()


def test_files_of_no_split_beside_others_are_said(tmp_path):
    parquet_shards(parquet_shards(tmp_path, (9,), classes=3), (6,), split="test", classes=3)
    parquet_shards(tmp_path, (6,), split="more", classes=3)
    (tmp_path / "more-00000-of-00001.parquet").rename(tmp_path / "more.parquet")
    data = load_dataset("parquet", tmp_path)
    assert (len(data.train), len(data.test)) == (9, 6)
    assert data.notes == ("not read: files whose names say no split, 1 (more.parquet)",)
    with pytest.raises(UserError, match=r"holds no \.csv files"):
        load_dataset("csv", tmp_path)


def test_images_in_tables_are_decoded_as_others_are(tmp_path):
    """A table may hold anything under the name of an image."""
    import datasets

    images = [{"bytes": numbered_png(n, 70), "path": None} for n in range(10)]
    images[3] = {"bytes": _postscript(), "path": "cat.png"}
    rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 5}).cast_column("image", datasets.Image())
    rows.to_parquet(tmp_path / "train.parquet")
    data = load_dataset("parquet", tmp_path)
    assert isinstance(data.train, LazySplit)
    with pytest.raises(UserError, match=r"cat\.png: not an image that is decoded here"):
        [split.decode(index) for split in (data.train, data.test) for index in range(len(split))]


def _postscript():
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (70, 70)).save(buffer, format="EPS")
    return buffer.getvalue()
