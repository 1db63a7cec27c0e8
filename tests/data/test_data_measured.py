"""The split to measure on alone: the same images as in training, and nothing else is decoded or fetched."""

import io
from pathlib import Path

import datasets
import pytest
import torch
from PIL.ImageFile import ImageFile

from tests.support.image_files import number_of, numbered_png, parquet_shards
from timm_asap.data import LazySplit, TensorSplit, build_loader, load_dataset
from timm_asap.data.columns import UnknownClassesError
from timm_asap.data.config import PixelConfig
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

    def test_class_folders_are_read_as_on_the_disk(self, hub):
        """`datasets` would go by the words in the files' names, and merge folders of one name."""
        splits = {"Train": 6, "Test": 3}
        files = {
            f"data/{split}/{name}/deep/a train {number} test.png": numbered_png(number)
            for split, count in splits.items()
            for name in ("cats", "dogs")
            for number in range(count)
        }
        hub.add_repo("you/photos", {**files, "README.md": "---\nlicense: mit\n---\n", "x.png": b""}, kind="datasets")
        alone = load_dataset("you/photos", measure_only=True)
        assert (alone.label_names, len(alone.test), alone.test_name) == (("cats", "dogs"), 6, "test")
        paths = [path for _, path, _ in hub.requests if "/resolve/" in path]
        assert any("/Test/" in path for path in paths)
        assert not any("/Train/" in path for path in paths)
        whole = load_dataset("you/photos")
        assert (len(whole.train), len(whole.test)) == (12, 6)
        assert same(alone.test, whole.test)
        assert whole.notes == (
            "folders: test in data/Test, train in data/Train",
            "not read: images outside the class folders, 1 (x.png)",
        )
        assert whole.source == "https://huggingface.co/datasets/you/photos, license not stated"

    def test_a_stream_of_class_folders_goes_by_the_folders_too(self, hub):
        files = {
            f"{split}/{name}/train {number}.png": numbered_png(10 * place + number)
            for split in ("Train", "Test")
            for place, name in enumerate(("cats", "dogs"))
            for number in range(5)
        }
        hub.add_repo("you/stream", files, kind="datasets")
        data = load_dataset("you/stream", streaming=True)
        assert (data.label_names, data.train.len_or_none, data.test.len_or_none) == (("cats", "dogs"), 10, 10)
        before = len(hub.requests)
        images, labels = zip(
            *build_loader(data.test, data, 4, training=False, pixels=PixelConfig(mean=(0.0,), std=(1.0,))), strict=True
        )
        assert [number_of(image) for batch in images for image in batch] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
        assert torch.cat(labels).tolist() == [0] * 5 + [1] * 5
        assert not any("/Train/" in path for _, path, _ in hub.requests[before:])
        loader = build_loader(data.train, data, 5, training=True, steps_per_epoch=2)
        batches = iter(loader)
        next(batches)
        state, expected = loader.state_dict(), next(batches)
        again = build_loader(data.train, data, 5, training=True, steps_per_epoch=2)
        again.load_state_dict(state)
        assert torch.equal(next(iter(again))[0], expected[0])

    def test_a_card_that_says_where_the_splits_are_is_followed(self, hub):
        images = {
            f"{part}/{name}/{n}.png": numbered_png(n) for part in "ab" for name in ("cat", "dog") for n in range(3)
        }
        files = [f"  - split: {split}\n    path: {part}/**\n" for split, part in (("train", "a"), ("test", "b"))]
        card = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(files) + "---\n"
        hub.add_repo("you/parts", {**images, "README.md": card}, kind="datasets")
        for options in ({}, {"measure_only": True}):
            data = load_dataset("you/parts", **options)
            assert (data.label_names, len(data.test)) == (("cat", "dog"), 6)

    def test_class_folders_that_were_fetched_are_there_offline(self, hub, monkeypatch):
        images = {
            f"{part}/{name}/{n}.png": numbered_png(n) for part in ("train", "test") for name in "ab" for n in range(3)
        }
        hub.add_repo("you/cached", images, kind="datasets")
        whole = load_dataset("you/cached")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        before = len(hub.requests)
        again = load_dataset("you/cached")
        assert same(again.test, whole.test)
        assert len(hub.requests) == before
