"""Local Parquet, Arrow, csv and WebDataset files, on the disk and as streams; labels, sizes and damage."""

import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.image_files import number_of, numbered_png, parquet_shards, web_shards
from timm_asap.data import (
    PADDING_LABEL,
    AugmentConfig,
    LazySplit,
    StreamSplit,
    TensorSplit,
    build_loader,
    count_unreadable,
    load_dataset,
)
from timm_asap.data.config import PixelConfig
from timm_asap.errors import UserError


def evaluated(data, split=None, **options):
    """Every label and image of the test split, in [0, 1]."""
    channels = data.image_size[0]
    pixels = PixelConfig(mean=(0.0,) * channels, std=(1.0,) * channels, **options)
    loader = build_loader(split or data.test, data, 4, training=False, pixels=pixels)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels).tolist()


def assert_numbered(data, count, **options):
    images, labels = evaluated(data, **options)
    assert labels == list(range(count))
    assert [number_of(image) for image in images] == labels


def csv_folder(folder, count=6, split="train"):
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    lines = ["path,label"]
    for number in range(count):
        (folder / "photos" / f"{number}.png").write_bytes(numbered_png(number))
        lines.append(f"photos/{number}.png,{number}")
    (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


# kinds of files


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_by_folder(tmp_path, streaming):
    parquet_shards(parquet_shards(tmp_path, (5, 4)), (9,), split="test")
    data = load_dataset("parquet", tmp_path, streaming=streaming, num_classes=9)
    assert isinstance(data.test, StreamSplit if streaming else TensorSplit)
    assert_numbered(data, 9)
    assert str(tmp_path) not in data.source
    assert data.source == f"parquet files of the folder {tmp_path.name}"


def test_parquet_by_file_and_pattern(tmp_path):
    parquet_shards(tmp_path, (10, 10), classes=2)
    one = load_dataset(str(tmp_path / "train-00000-of-00002.parquet"))
    assert (len(one.train), len(one.test), one.test_name) == (8, 2, "held-out fifth, seed 0")
    assert one.source == "the file train-00000-of-00002.parquet"
    both = load_dataset(str(tmp_path / "train-*.parquet"))
    assert len(both.train) + len(both.test) == 20
    by_flag = load_dataset("parquet", tmp_path / "train-*.parquet")
    assert len(by_flag.train) == 16


def test_arrow_files(tmp_path):
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": numbered_png(n), "path": None} for n in range(10)], "label": [0, 1] * 5}
    )
    rows.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    file = next((tmp_path / "saved").glob("*.arrow"))
    assert len(load_dataset(str(file)).train) == 8


@pytest.mark.parametrize("streaming", [False, True])
def test_csv_with_paths_from_its_folder(tmp_path, streaming):
    csv_folder(csv_folder(tmp_path), split="test")
    data = load_dataset("csv", tmp_path, streaming=streaming, num_classes=6)
    assert_numbered(data, 6)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("label", ["cls", "json"])
def test_web_shards_with_labels_of_both_kinds(tmp_path, streaming, label):
    web_shards(web_shards(tmp_path, (6, 5), label=label), (7,), split="test", label=label)
    data = load_dataset("webdataset", tmp_path, streaming=streaming, num_classes=11)
    assert data.train.label_key == ("cls" if label == "cls" else "json.label") if streaming else True
    assert_numbered(data, 7)


def test_streams_of_saved_data_sets_and_of_folders(tmp_path):
    rows = {
        split: datasets.Dataset.from_parquet(str(next(parquet_shards(tmp_path / split, (9,), classes=3).glob("*"))))
        for split in ("train", "test")
    }
    datasets.DatasetDict(rows).save_to_disk(tmp_path / "saved")
    data = load_dataset(str(tmp_path / "saved"), streaming=True)
    assert data.label_names == ("class 0", "class 1", "class 2")
    assert len(evaluated(data)[1]) == 9
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(numbered_png(3))
    pets = load_dataset("imagefolder", tmp_path / "pets", streaming=True)
    assert pets.label_names == ("cat", "dog")
    assert sorted(evaluated(pets)[1]) == [0, 1]


def test_a_stream_whose_length_is_known_needs_no_steps(tmp_path):
    parquet_shards(parquet_shards(tmp_path / "data", (10,), classes=2), (6,), split="test", classes=2)
    counts = "".join(
        f"    - name: {split}\n      num_examples: {count}\n" for split, count in (("train", 10), ("test", 6))
    )
    features = "    - name: image\n      dtype: image\n    - name: label\n      dtype: int64\n"
    (tmp_path / "README.md").write_text(f"---\ndataset_info:\n  features:\n{features}  splits:\n{counts}---\n")
    data = load_dataset(str(tmp_path), streaming=True, num_classes=2)
    assert (data.train.len_or_none, data.test.len_or_none) == (10, 6)
    assert len(build_loader(data.train, data, 3, training=True)) == 3
    assert len(build_loader(data.test, data, 4, training=False)) == 2


@pytest.mark.parametrize(
    ("name", "data_dir", "message"),
    [
        ("parquet", None, "parquet needs --data-dir, a folder of .parquet files"),
        ("webdataset", "nowhere", "nowhere is no folder and no files: expected a folder of .tar shards"),
        ("nowhere.parquet", None, "there is no file nowhere.parquet: expected a .parquet file"),
        ("webdataset", "none-*.tar", r"none-\*.tar is no folder and no files"),
    ],
)
def test_files_that_are_not_there(tmp_path, monkeypatch, name, data_dir, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load_dataset(name, data_dir)


# labels


def test_given_names_and_numbers_of_classes(tmp_path):
    parquet_shards(parquet_shards(tmp_path, (3,)), (2,), split="test")
    data = load_dataset("parquet", tmp_path, label_names=["ant", "bee", "cat", "dog"])
    assert data.label_names == ("ant", "bee", "cat", "dog")
    assert data.class_counts(data.train) == {"ant": 1, "bee": 1, "cat": 1, "dog": 0}
    assert load_dataset("parquet", tmp_path, num_classes=5).label_names == tuple("01234")
    with pytest.raises(
        UserError, match="row 2 of column 'label', split 'train' has the label 2: expected one of the 2"
    ):
        load_dataset("parquet", tmp_path, num_classes=2)
    with pytest.raises(UserError, match="4 classes are named, --num-classes says 3"):
        load_dataset("parquet", tmp_path, label_names=list("abcd"), num_classes=3)


def test_class_names_of_the_data_set_must_agree(tmp_path):
    parquet_shards(tmp_path, (10,), classes=2)
    with pytest.raises(UserError, match="2 classes are named, --num-classes says 3"):
        load_dataset("parquet", tmp_path, num_classes=3)
    with pytest.raises(UserError, match="1 classes are named, the data set has 2"):
        load_dataset("parquet", tmp_path, label_names=["one"])


def test_names_as_labels_of_a_stream(tmp_path):
    for split, names in (("train", ["b", "a"]), ("test", ["a", "c", "b"])):
        images = [{"bytes": numbered_png(1), "path": None}] * len(names)
        rows = datasets.Dataset.from_dict({"image": images, "label": names}).cast_column("image", datasets.Image())
        rows.to_parquet(tmp_path / f"{split}.parquet")
    data = load_dataset("parquet", tmp_path, streaming=True, label_names=["a", "b", "c"])
    assert evaluated(data)[1] == [0, 2, 1]


def test_class_counts():
    data = load_dataset("digits")
    counts = data.class_counts(data.train)
    assert list(counts) == list("0123456789")
    assert counts["3"] == (data.train.labels == 3).sum()
    assert sum(counts.values()) == len(data.train)


# sizes and modes


def test_large_images_stream_through_timms_transforms(tmp_path):
    web_shards(web_shards(tmp_path, (6,), side=80), (4,), split="test", side=80)
    data = load_dataset("webdataset", tmp_path, streaming=True, num_classes=6)
    assert data.train.small is None
    assert data.image_size == (3, 224, 224)
    assert_numbered(data, 4, input_size=(3, 48, 48))
    augment = AugmentConfig(auto_augment="rand-m9-mstd0.5", re_prob=0.5)
    options = {"pixels": PixelConfig(input_size=(3, 48, 48)), "augment": augment, "steps_per_epoch": 3}
    first, again = (build_loader(data.train, data, 2, training=True, **options) for _ in range(2))
    for (images, labels), (same, _) in zip(first, again, strict=True):
        assert torch.equal(images, same)
        assert images.shape == (2, 3, 48, 48)
        assert labels.dtype == torch.int64


def png_folder(root, images):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number, image in enumerate(images):
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                image.save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("streaming", [False, True])
def test_small_grey_images_keep_one_channel_and_get_a_frame(tmp_path, streaming):
    sixteen_bits = Image.fromarray(np.full((20, 20), 40000, dtype=np.uint16))
    data = load_dataset("imagefolder", png_folder(tmp_path, [sixteen_bits] * 3), streaming=streaming)
    assert data.image_size == (1, 32, 32)
    assert data.frame == (6, 6, 6, 6)
    images, _ = evaluated(data)
    assert images[0, 0, 16, 16] == pytest.approx(round(40000 / 257) / 255)
    assert images[0, 0, 0, 0] == 0


@pytest.mark.parametrize("streaming", [False, True])
def test_every_mode_in_one_folder(tmp_path, streaming):
    color = Image.new("RGB", (40, 40), (200, 100, 50))
    clear = Image.new("RGBA", (40, 40), (1, 2, 3, 0))
    palette = color.convert("P", palette=Image.Palette.ADAPTIVE)
    data = load_dataset("imagefolder", png_folder(tmp_path, [color, clear, palette]), streaming=streaming)
    images, _ = evaluated(data)
    expected = torch.tensor([200, 100, 50]) / 255
    for image, wanted in zip(images[:3], (expected, torch.ones(3), expected), strict=True):
        torch.testing.assert_close(image[:, 20, 20], wanted, atol=2 / 255, rtol=0)


# damage


def damaged_folder(root, side, damage=1, good=4):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(good):
                (folder / f"{number}.png").write_bytes(numbered_png(label, side))
            for number in range(damage):
                (folder / f"1_broken_{number}.png").write_bytes(b"no image")
    return root


def test_small_images_that_cannot_be_read_are_left_out(tmp_path):
    folder = damaged_folder(tmp_path, 40)
    with pytest.raises(UserError, match=r"1_broken_0\.png: not an image"):
        load_dataset("imagefolder", folder)
    with pytest.warns(UserWarning, match=r"left out 2 of 10 images; the first: cannot read \S*1_broken_0\.png"):
        data = load_dataset("imagefolder", folder, skip_unreadable=True)
    assert data.class_counts(data.train) == {"cat": 4, "dog": 4}
    images, labels = evaluated(data)
    assert [number_of(image) for image in images] == labels


def test_large_images_that_cannot_be_read_are_replaced_in_training_and_not_counted_in_evaluation(tmp_path):
    data = load_dataset("imagefolder", damaged_folder(tmp_path, 80), skip_unreadable=True)
    assert isinstance(data.train, LazySplit)
    options = {"pixels": PixelConfig(input_size=(3, 48, 48), mean=(0.0,) * 3, std=(1.0,) * 3)}
    augment = AugmentConfig(color_jitter=0.0)
    loader = build_loader(data.train, data, 5, training=True, augment=augment, drop_last=False, **options)
    with pytest.warns(UserWarning, match=r"skipping images that cannot be read; the first: .*1_broken") as warned:
        batches = list(loader)
    assert len(warned) == 1
    assert count_unreadable(loader) == 2
    labels = torch.cat([labels for _, labels in batches]).tolist()
    assert [number_of(image) for images, _ in batches for image in images] == labels
    assert len(labels) == 10
    with pytest.warns(UserWarning, match="skipping"):
        _, labels = evaluated(data, input_size=(3, 48, 48))
    assert sorted(labels) == [PADDING_LABEL] * 2 + [0] * 4 + [1] * 4


def test_a_stream_with_images_that_cannot_be_read(tmp_path):
    web_shards(web_shards(tmp_path, (8,), damage={2, 5}), (6,), split="test", damage={1})
    data = load_dataset("webdataset", tmp_path, streaming=True, num_classes=8)
    with pytest.raises(UserError, match=r"cannot read \S*000001\.png: not an image"):
        evaluated(data)
    data = load_dataset("webdataset", tmp_path, streaming=True, num_classes=8, skip_unreadable=True)
    with pytest.warns(UserWarning, match=r"skipping images that cannot be read; the first: .*000001\.png"):
        _, labels = evaluated(data)
    assert labels == [0, PADDING_LABEL, 2, 3, 4, 5]
    loader = build_loader(data.train, data, 4, training=True, steps_per_epoch=2)
    with pytest.warns(UserWarning, match="skipping"):
        labels = torch.cat([labels for _, labels in loader]).tolist()
    assert len(labels) == 8
    assert not {2, 5} & set(labels)
    assert count_unreadable(loader) == 2


def test_nothing_can_be_read(tmp_path):
    with pytest.raises(UserError, match="none of 4 images can be read; the first: "):
        load_dataset("imagefolder", damaged_folder(tmp_path, 40, damage=2, good=0), skip_unreadable=True)


def test_a_shard_that_breaks_off(tmp_path):
    web_shards(web_shards(tmp_path, (40,)), (2,), split="test")
    data = load_dataset("webdataset", tmp_path, streaming=True, num_classes=40)
    shard = tmp_path / "train-0000.tar"
    with tarfile.open(shard) as tar:
        middle = tar.getmembers()[60].offset_data
    shard.write_bytes(shard.read_bytes()[: middle + 5])
    loader = build_loader(data.train, data, 4, training=True, steps_per_epoch=20)
    with pytest.raises(UserError, match=r"cannot go on reading webdataset, split 'train': .*"):
        list(loader)


def test_a_shard_that_is_none(tmp_path):
    (tmp_path / "train-0000.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match="cannot"):
        load_dataset("webdataset", tmp_path, streaming=True, num_classes=2)
