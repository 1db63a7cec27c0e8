"""The split to measure on alone: the same images as in training, and nothing else is decoded or fetched."""

import io
from pathlib import Path

import datasets
import pytest
import torch
from image_files import numbered_png, parquet_shards
from PIL.ImageFile import ImageFile

from timm_asap.data import LazySplit, TensorSplit, load_dataset
from timm_asap.data.columns import UnknownClassesError
from timm_asap.errors import UserError


def folders(root, sizes, splits=("train", "val", "test"), count=6):
    """Class folders; every split has its own sizes, taken in turn."""
    for place, split in enumerate(splits):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                side = sizes[place][number % len(sizes[place])]
                (folder / f"{number}.png").write_bytes(numbered_png(100 * place + 10 * label + number, side))
    return root


def same(one, other):
    if isinstance(one, TensorSplit):
        return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    images = [[split.decode(index).tobytes() for index in range(len(split))] for split in (one, other)]
    return images[0] == images[1] and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ([(40,), (40,), (40,)], TensorSplit),
        ([(40, 40, 33), (33,), (33,)], TensorSplit),  # the commonest size is that of the images to train on
        ([(20,), (33,), (33,)], TensorSplit),
        ([(70, 40), (40,), (40,)], LazySplit),  # one large image makes all large
        ([(40,), (70,), (40,)], LazySplit),
        ([(40,), (40,), (70,)], LazySplit),
    ],
)
def test_the_images_are_those_of_training_and_no_other_is_decoded(tmp_path, monkeypatch, sizes, kind):
    root = folders(tmp_path, sizes)
    whole = load_dataset("imagefolder", root)
    decoded = []
    load = ImageFile.load

    def watched(self):
        decoded.append(self.filename)
        return load(self)

    monkeypatch.setattr(ImageFile, "load", watched)
    alone = load_dataset("imagefolder", root, measure_only=True)
    assert isinstance(alone.test, kind)
    if kind is TensorSplit or max(sizes[2]) > 64:
        assert decoded
    assert all(Path(path).parts[-3] == "test" for path in decoded)
    assert len(alone.train) == 0
    assert same(alone.test, whole.test)
    for name in ("label_names", "image_size", "test_name", "source", "frame"):
        assert getattr(alone, name) == getattr(whole, name)


@pytest.mark.parametrize("side", [40, 70])
def test_a_held_out_fifth_is_the_one_of_training(tmp_path, side):
    root = folders(tmp_path, [(side, side, side - 1)], splits=("train",), count=20)
    whole = load_dataset("imagefolder", root)
    alone = load_dataset("imagefolder", root, measure_only=True)
    assert alone.test_name == whole.test_name == "held-out fifth, seed 0"
    assert len(alone.test) == 8
    assert same(alone.test, whole.test)


@pytest.mark.parametrize("labels", ["names", "numbers"])
def test_local_tables(tmp_path, labels):
    classes = 4 if labels == "names" else None
    parquet_shards(parquet_shards(tmp_path, (8,), classes=classes), (4,), split="test", classes=classes)
    whole = load_dataset("parquet", tmp_path)
    alone = load_dataset("parquet", tmp_path, measure_only=True)
    # of numbers without names, the images to train on tell the classes
    assert alone.label_names == whole.label_names
    assert len(alone.label_names) == (4 if labels == "names" else 8)
    assert same(alone.test, whole.test)


def rows(values, names=None, side=32):
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": numbered_png(n, side), "path": None} for n in range(len(values))], "label": values}
    ).cast_column("image", datasets.Image())
    table = table if names is None else table.cast_column("label", datasets.ClassLabel(names=names))
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def fetched(hub):
    return {path.rpartition("/")[2] for method, path, status in hub.requests if method == "GET" and "/resolve/" in path}


TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


def add(hub, train, test=None, name="you/pets"):
    files = {f"data/{TRAIN}": train}
    if test is not None:
        files[f"data/{TEST}"] = test
    hub.add_repo(name, files, kind="datasets")
    return name


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No data set is in the cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", tmp_path / "datasets" / "downloads")


@pytest.mark.usefixtures("fresh")
class TestHub:
    def test_the_split_to_train_on_is_never_fetched(self, hub):
        name = add(hub, rows([0, 1] * 10, ["cat", "dog"]), rows([0, 1] * 3, ["cat", "dog"]))
        data = load_dataset(name, measure_only=True)
        assert (data.label_names, len(data.test), len(data.train)) == (("cat", "dog"), 6, 0)
        assert TEST in fetched(hub)
        assert TRAIN not in fetched(hub)
        whole = load_dataset(name)
        assert TRAIN in fetched(hub)
        assert same(data.test, whole.test)
        assert data.source == whole.source

    def test_without_a_test_split_it_has_to_be(self, hub):
        name = add(hub, rows([0, 1] * 10, ["cat", "dog"]))
        data = load_dataset(name, measure_only=True)
        assert (len(data.test), data.test_name) == (4, "held-out fifth, seed 0")

    def test_labels_without_names_are_those_of_the_model(self, hub):
        name = add(hub, rows([1, 2, 3, 7] * 5), rows([7, 1, 1]))
        with pytest.raises(UnknownClassesError, match="'train' is not fetched to measure on 'test': give --num"):
            load_dataset(name, measure_only=True)
        data = load_dataset(name, measure_only=True, trained_names=("1", "2", "3", "7"))
        assert (data.label_names, data.test.labels.tolist()) == (("1", "2", "3", "7"), [3, 0, 0])
        assert TRAIN not in fetched(hub)
        whole = load_dataset(name)
        assert (whole.label_names, whole.test.labels.tolist()) == (data.label_names, [3, 0, 0])

    def test_numbers_to_which_names_were_given(self, hub):
        name = add(hub, rows([0, 1, 2] * 5), rows([2, 0]))
        data = load_dataset(name, measure_only=True, trained_names=("cat", "dog", "emu"))
        assert (data.label_names, data.test.labels.tolist()) == (("cat", "dog", "emu"), [2, 0])
        by_flag = load_dataset(name, measure_only=True, label_names=["cat", "dog", "emu"])
        assert by_flag.test.labels.tolist() == [2, 0]
        assert load_dataset(name, measure_only=True, num_classes=5).num_classes == 5
        assert TRAIN not in fetched(hub)

    def test_names_as_labels(self, hub):
        name = add(hub, rows(["cat", "dog", "emu"] * 5), rows(["emu", "cat"]))
        data = load_dataset(name, measure_only=True, trained_names=("cat", "dog", "emu"))
        assert data.test.labels.tolist() == [2, 0]
        assert TRAIN not in fetched(hub)

    def test_a_split_that_is_not_there(self, hub):
        name = add(hub, rows([0, 1] * 5, ["cat", "dog"]))
        with pytest.raises(UserError, match="--test-split: unknown split 'tset'"):
            load_dataset(name, test_split="tset", measure_only=True)
