"""Data sets that the `datasets` library reads: Hub ids, folders of images, local Parquet and Arrow files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from timm_asap.data.columns import LabelEncoder, column_values, find_image_column, find_label_column
from timm_asap.data.splits import (
    SMALL_SIDE_PX,
    ImageDataset,
    LazySplit,
    TensorSplit,
    hold_out_fifth,
    large_dataset,
    small_dataset,
)
from timm_asap.errors import UserError, unknown_name

if TYPE_CHECKING:
    import datasets

_TEST_SPLITS = ("test", "validation", "valid", "val", "dev")


def load_huggingface(
    name: str,
    data_dir: Path | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Loads what `datasets.load_dataset` can load and finds its images, labels and splits.

    If no image has a side above 64 pixels, all are decoded into memory: at the commonest size of the training
    split (others are resized to it, bicubic) and in one channel if all are grey. Otherwise they stay on disk.

    Args:
        name: A Hub id ("uoft-cs/cifar10", or "owner/name:configuration"), a folder, or "imagefolder".
        data_dir: The folder of images for "imagefolder"; else a folder within the data set.
        image_key: Column of images, if it cannot be told by its type.
        label_key: Column of labels, likewise.
        train_split: Split to train on; "train" or the only one by default.
        test_split: Split to measure on; by default test, validation or, without either, a held-out fifth.
        seed: Which fifth.

    Raises:
        UserError: The data set cannot be reached or read, or lacks images, labels or a split.
    """
    tables = _load_tables(name, data_dir)
    _check_splits(tables, train_split, test_split)
    train_split = train_split or _find_train_split(tables)
    if test_split == train_split:
        raise UserError(f"the split {train_split!r} cannot be trained and measured on at once: name another")
    train_table = tables[train_split]
    image_key = find_image_column(train_table.features, image_key)
    if name == "imagefolder" and label_key is None and len(train_table.features) == 1:
        raise UserError(f"{data_dir} has no class subfolders: expected one folder of images per class, two or more")
    label_key = find_label_column(train_table.features, label_key)
    encoder = LabelEncoder(train_table.features[label_key], column_values(train_table, label_key))
    test_split = test_split or _find_test_split(tables, train_split, label_key)

    train = _lazy_split(train_table, image_key, label_key, encoder, train_split)
    if test_split is None:
        train, test, test_split = hold_out_fifth(train, seed)
    else:
        test = _lazy_split(tables[test_split], image_key, label_key, encoder, test_split)

    about = {"test_name": test_split, "source": _source(name, data_dir, train_table)}
    decoded = _decode_small(train, test)
    if decoded is None:
        return large_dataset(name, encoder.names, train, test, **about)
    return small_dataset(name, encoder.names, *decoded, **about)


def _load_tables(name: str, data_dir: Path | None) -> dict[str, datasets.Dataset]:
    """Every split of the data set."""
    # datasets takes seconds to import: the bundled data sets do without it
    import datasets

    if name == "imagefolder":
        if data_dir is None:
            raise UserError("imagefolder needs --data-dir, a folder with one subfolder of images per class")
        if not data_dir.is_dir():
            raise UserError(f"--data-dir {data_dir} is no folder: expected one with a subfolder of images per class")
    is_local = Path(name).is_dir()
    if name.startswith((".", "/", "~")) and not is_local:
        raise UserError(f"there is no folder {name}: expected one that holds a data set")
    try:
        if is_local and any((Path(name) / file).exists() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
        elif is_local:
            loaded = datasets.load_dataset(name, data_dir=data_dir and str(data_dir))
        else:
            path, _, configuration = name.partition(":")
            loaded = datasets.load_dataset(path, configuration or None, data_dir=data_dir and str(data_dir))
    except ConnectionError as error:
        raise UserError(
            f"cannot reach the Hugging Face Hub for data set {name!r}: check the name and the network, "
            "or give a folder instead"
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        what = f"{data_dir}" if name == "imagefolder" else f"data set {name!r}"
        raise UserError(f"cannot load {what}: {_one_line(error)}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _check_splits(tables: dict, train_split: str | None, test_split: str | None) -> None:
    for flag, asked in (("--train-split", train_split), ("--test-split", test_split)):
        if asked is not None and asked not in tables:
            raise UserError(f"{flag}: {unknown_name('split', asked, tables)}")


def _find_train_split(tables: dict) -> str:
    if "train" in tables:
        return "train"
    if len(tables) == 1:
        return next(iter(tables))
    raise UserError(f"no split is called train among {', '.join(tables)}: name one with --train-split")


def _find_test_split(tables: dict, train_split: str, label_key: str) -> str | None:
    """The split to measure on; None if one has to be held out."""
    for name in _TEST_SPLITS:
        if name in tables and name != train_split and not _labels_are_secret(tables[name], label_key):
            return name
    return None


def _labels_are_secret(table: datasets.Dataset, label_key: str) -> bool:
    """Whether a benchmark keeps these labels for itself: no column of them, or nothing but -1 in it."""
    if label_key not in table.column_names:
        return True
    return all(label in (None, -1) for label in column_values(table, label_key))


def _lazy_split(
    table: datasets.Dataset, image_key: str, label_key: str, encoder: LabelEncoder, split: str
) -> LazySplit:
    import datasets

    for key in (image_key, label_key):
        if key not in table.column_names:
            raise UserError(f"the split {split!r} has no column {key!r}: it has {', '.join(table.column_names)}")
    labels = encoder.encode(column_values(table, label_key), f"column {label_key!r}, split {split!r}")
    try:
        images = table.select_columns([image_key]).cast_column(image_key, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        came = table.features[image_key]
        raise UserError(f"column {image_key!r} holds no images but {came}: name another with --image-key") from error
    return LazySplit(images, image_key, label_key, labels)


def _decode_small(train: LazySplit, test: LazySplit) -> tuple[TensorSplit, TensorSplit] | None:
    """Both splits in memory, or None as soon as one image is large."""
    decoded = []
    for split in (train, test):
        images = []
        for index in range(len(split)):
            image = split.decode(index)
            if max(image.size) > SMALL_SIDE_PX:
                return None
            images.append(image)
        decoded.append(images)
    ((size, _),) = Counter(image.size for image in decoded[0]).most_common(1)
    grey = all(image.mode == "L" for image in (*decoded[0], *decoded[1]))
    stacked = (_stack(images, size, "L" if grey else "RGB") for images in decoded)
    return tuple(TensorSplit(images, split.labels) for images, split in zip(stacked, (train, test), strict=True))


def _stack(images: list[Image.Image], size: tuple[int, int], mode: str) -> torch.Tensor:
    arrays = []
    for image in images:
        image = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        arrays.append(np.asarray(image.convert(mode)))
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.unsqueeze(1) if mode == "L" else stacked.permute(0, 3, 1, 2).contiguous()


def _source(name: str, data_dir: Path | None, table: datasets.Dataset) -> str:
    licence = table.info.license or "not stated"
    if name == "imagefolder":
        return f"images of the folder {data_dir.resolve().name}"
    if Path(name).is_dir():
        return f"the folder {Path(name).resolve().name}, licence {licence}"
    return f"https://huggingface.co/datasets/{name.partition(':')[0]}, licence {licence}"


def _one_line(error: BaseException) -> str:
    """The error and what caused it: `datasets` keeps the telling part in the cause."""
    told = error.__cause__ or error
    return " ".join(str(told).split()) or type(told).__name__
