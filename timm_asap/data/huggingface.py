"""Data sets that the `datasets` library brings to the disk: of the Hub, folders, Parquet, Arrow, csv, WebDataset."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from timm_asap.data.columns import (
    LabelEncoder,
    column_values,
    find_image_column,
    find_label_column,
    flat_features,
    has_column,
)
from timm_asap.data.holdout import hold_out_fifth
from timm_asap.data.images import ImageFileError, stack_images
from timm_asap.data.splits import (
    SMALL_SIDE_PX,
    ImageDataset,
    LazySplit,
    TensorSplit,
    large_dataset,
    small_dataset,
)
from timm_asap.data.tables import (
    check_splits,
    files_folder,
    find_test_split,
    find_train_split,
    find_validation_split,
    load_tables,
    source_of,
    undecoded,
)
from timm_asap.errors import UserError

if TYPE_CHECKING:
    import datasets


def load_huggingface(
    name: str,
    data_dir: Path | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    num_classes: int | None = None,
    label_names: tuple[str, ...] | None = None,
    skip_corrupt: bool = False,
    seed: int = 0,
) -> ImageDataset:
    """Loads what `datasets.load_dataset` can load and finds its images, labels and splits.

    If no image has a side above 64 pixels, all are decoded into memory: at the commonest size of the training
    split (others are resized to it, bicubic) and in one channel if all are grey. Otherwise they stay on disk.

    Args:
        name: As for `load_tables`.
        data_dir: Likewise.
        image_key: Column of images, if it cannot be told by its type.
        label_key: Column of labels, likewise.
        train_split: Split to train on; "train" or the only one by default.
        test_split: Split to measure on; by default test, validation or, without either, a held-out fifth.
        num_classes: As for `LabelEncoder`.
        label_names: Likewise.
        skip_corrupt: Leave out images that cannot be read, with a warning.
        seed: Which fifth.

    Raises:
        UserError: The data set cannot be reached or read, or lacks images, labels or a split.
    """
    tables = load_tables(name, data_dir)
    check_splits(tables, train_split, test_split)
    train_split = train_split or find_train_split(tables)
    if test_split == train_split:
        raise UserError(f"the split {train_split!r} cannot be trained and measured on at once: name another")
    train_table = tables[train_split]
    image_key = find_image_column(train_table.features, image_key)
    if name == "imagefolder" and label_key is None and len(train_table.features) == 1:
        raise UserError(f"{data_dir} has no class subfolders: expected one folder of images per class, two or more")
    label_key = find_label_column(train_table.features, label_key)
    feature = flat_features(train_table.features)[label_key]
    encoder = LabelEncoder(feature, column_values(train_table, label_key), num_classes, label_names)
    test_split = test_split or find_test_split(tables, train_split, label_key)
    val_split = find_validation_split(tables, {train_split, test_split}, label_key)

    folder = files_folder(name, data_dir)
    wanted = [split for split in (train_split, test_split, val_split) if split is not None]
    splits = [_lazy_split(tables[s], image_key, label_key, encoder, s, skip_corrupt, folder) for s in wanted]
    if test_split is None:
        *divided, test_split = hold_out_fifth(splits[0], seed)
        splits[:1] = divided

    about = {"test_name": test_split, "source": source_of(name, data_dir, train_table), "val_name": val_split}
    decoded = _decode_small(splits)
    if decoded is None:
        return large_dataset(name, encoder.names, *splits, **about)
    return small_dataset(name, encoder.names, *decoded, **about)


def _lazy_split(
    table: datasets.Dataset,
    image_key: str,
    label_key: str,
    encoder: LabelEncoder,
    split: str,
    skip_corrupt: bool,
    folder: Path | None,
) -> LazySplit:
    for key in (image_key, label_key):
        if not has_column(table.features, key):
            raise UserError(f"the split {split!r} has no column {key!r}: it has {', '.join(table.column_names)}")
    labels = encoder.encode(column_values(table, label_key), f"column {label_key!r}, split {split!r}")
    images = undecoded(table.select_columns([image_key]), image_key)
    return LazySplit(images, image_key, label_key, labels, skip_corrupt, folder)


def _decode_small(splits: list[LazySplit]) -> list[TensorSplit] | None:
    """All splits in memory, or None as soon as one image is large. The first is the one to train on."""
    decoded = []
    for split in splits:
        images = _decode_all(split)
        if images is None:
            return None
        decoded.append(images)
    ((size, _),) = Counter(image.size for image in decoded[0].values()).most_common(1)
    grey = all(image.mode == "L" for images in decoded for image in images.values())
    return [
        TensorSplit(stack_images(images.values(), size, "L" if grey else "RGB"), split.labels[list(images)])
        for images, split in zip(decoded, splits, strict=True)
    ]


def _decode_all(split: LazySplit) -> dict[int, Image.Image] | None:
    """The images that can be read, by their number; None as soon as one is large."""
    images, first_error = {}, None
    for index in range(len(split)):
        try:
            image = split.decode(index)
        except ImageFileError as error:
            if not split.skip_corrupt:
                raise
            first_error = first_error or error
            continue
        if max(image.size) > SMALL_SIDE_PX:
            return None
        images[index] = image
    if not images:
        raise UserError(f"none of {len(split)} images can be read; the first: {first_error}")
    if first_error is not None:
        left_out = len(split) - len(images)
        warnings.warn(f"left out {left_out} of {len(split)} images; the first: {first_error}", stacklevel=2)
    return images
