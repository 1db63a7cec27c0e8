"""Data sets that the `datasets` library brings to the disk: of the Hub, folders, Parquet, Arrow, csv, WebDataset."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from timm_asap.data.columns import (
    LabelEncoder,
    UnknownClassesError,
    column_values,
    features_of,
    find_image_column,
    find_label_column,
    flat_features,
    has_column,
    is_named,
    values_called,
)
from timm_asap.data.images import ImageFileError, stack_images
from timm_asap.data.split_choice import (
    find_test_split,
    find_train_split,
    find_validation_split,
    hold_out_fifth,
    labels_are_secret,
    notes_on,
    test_splits,
)
from timm_asap.data.splits import (
    SMALL_SIDE_PX,
    ImageDataset,
    LazySplit,
    TensorSplit,
    counted,
    large_dataset,
    small_dataset,
)
from timm_asap.data.tables import Tables, load_tables, source_of, undecoded
from timm_asap.errors import UserError


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
    class_order: str | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
) -> ImageDataset:
    """Loads what `datasets.load_dataset` can load and finds its images, labels and splits.

    If no image has a side above 64 pixels, all are decoded into memory: at the commonest size of the training
    split (others are resized to it, bicubic) and in one channel if all are gray. Otherwise they stay on disk.

    Args:
        name: As for `load_tables`.
        data_dir: Likewise.
        image_key: Column of images, if it cannot be told by its type.
        label_key: Column of labels, likewise.
        train_split: Split to train on; "train" or the only one by default.
        test_split: Split to measure on; by default test, validation or, without either, a held-out fifth.
        num_classes: As for `LabelEncoder`.
        label_names: Likewise.
        class_order: Likewise.
        skip_unreadable: Leave out images that cannot be read, with a warning.
        seed: Which fifth.

    Raises:
        UserError: The data set cannot be reached or read, or lacks images, labels or a split.
    """
    tables = load_tables(name, data_dir, train_split=train_split, test_split=test_split)
    train_split = train_split or find_train_split(tables)
    if test_split == train_split:
        raise UserError(f"the split {train_split!r} cannot be trained and measured on at once: name another")
    train_table = tables.on_disk_table(train_split)
    image_key = find_image_column(features_of(train_table), image_key)
    label_key = find_label_column(features_of(train_table), label_key)
    feature = flat_features(features_of(train_table))[label_key]
    encoder = LabelEncoder(feature, column_values(train_table, label_key), num_classes, label_names, class_order)
    if name == "imagefolder" and len(encoder.names) < 2:
        raise UserError(
            f"{data_dir} has one class folder ({', '.join(encoder.names)}): expected one folder of images per class, "
            "two or more"
        )
    test_split = test_split or find_test_split(tables, train_split, label_key)
    val_split = find_validation_split(tables, {train_split, test_split}, label_key)

    wanted = [split for split in (train_split, test_split, val_split) if split is not None]
    splits = [_lazy_split(tables, split, image_key, label_key, encoder, skip_unreadable) for split in wanted]
    if test_split is None:
        *divided, test_split = hold_out_fifth(splits[0], seed)
        splits[:1] = divided

    about: dict[str, Any] = {
        "test_name": test_split,
        "source": source_of(name, data_dir, tables),
        "val_name": val_split,
    }
    about |= {"notes": notes_on(tables, wanted), "class_order": class_order}
    decoded = _decode_small(splits)
    if decoded is None:
        return large_dataset(name, encoder.names, *splits, **about)
    return small_dataset(name, encoder.names, *decoded, **about)


def load_measured(
    name: str,
    data_dir: Path | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    num_classes: int | None = None,
    label_names: tuple[str, ...] | None = None,
    class_order: str | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
    trained_names: tuple[str, ...] | None = None,
) -> ImageDataset:
    """Loads the split to measure on alone: `load_huggingface` without what training needs, and the same images.

    Of a data set on the disk, the images to train on are looked at for their size and not decoded. Of the Hub, their
    split is not even fetched, unless the images to measure on have to be held out of it.

    Args:
        name: As for `load_huggingface`, like the others.
        data_dir: Likewise.
        image_key: Likewise.
        label_key: Likewise.
        train_split: Likewise.
        test_split: Likewise.
        num_classes: Likewise.
        label_names: Likewise.
        class_order: Likewise.
        skip_unreadable: Likewise.
        seed: Likewise.
        trained_names: Of classes that a model was trained on, in the order of its outputs.

    Returns:
        The data set, whose `train` is empty.

    Raises:
        UnknownClassesError: Only the split to train on, which is on the Hub, tells the classes.
        UserError: The data set cannot be reached or read, or lacks images, labels or a split.
    """
    tables = load_tables(name, data_dir, train_split=train_split, test_split=test_split, one_by_one=True)
    if train_split is None and "train" in tables:
        train_split = "train"
    if test_split is not None and test_split == train_split:
        raise UserError(f"the split {train_split!r} cannot be trained and measured on at once: name another")
    measured = test_split
    for split in [] if measured else test_splits(tables, train_split):
        features = features_of(tables[split])
        image_column = find_image_column(features, image_key)
        with contextlib.suppress(UserError):  # a test split without labels
            if not labels_are_secret(tables[split], find_label_column(features, label_key)):
                measured = split
                break
    from_train = measured is None
    if from_train:
        measured = train_split = train_split or find_train_split(tables)
    table = tables.on_disk_table(measured)
    image_column = find_image_column(features_of(table), image_key)
    label_column = find_label_column(features_of(table), label_key)
    feature = flat_features(features_of(table))[label_column]
    named = is_named(feature) or num_classes is not None or label_names is not None
    values = None
    if not named:
        if from_train or train_split is None:
            values = column_values(table, label_column)
        elif tables.on_disk:
            values = column_values(tables.on_disk_table(train_split), label_column)
        elif trained_names is not None:
            values = values_called(trained_names, column_values(table, label_column))
            label_names = trained_names if values is None else None
        else:
            raise UnknownClassesError(
                f"the labels of {name} have no names, and its split {train_split!r} is not fetched to measure on "
                f"{measured!r}: give --num-classes, or --label-names"
            )
    encoder = LabelEncoder(feature, values, num_classes, label_names, class_order)
    split = _lazy_split(tables, measured, image_column, label_column, encoder, skip_unreadable)
    test_name, others = measured, []
    if from_train:
        kept, split, test_name = hold_out_fifth(split, seed)
        others = [kept]
    elif tables.on_disk:
        val_split = find_validation_split(tables, {train_split, measured}, label_column)
        unused = [other for other in (train_split, val_split) if other is not None]
        others = [_lazy_split(tables, other, image_column, label_column, encoder, skip_unreadable) for other in unused]
    about: dict[str, Any] = {
        "test_name": test_name,
        "source": source_of(name, data_dir, tables),
        "class_order": class_order,
    }
    about["notes"] = notes_on(tables, [measured] if train_split is None else [train_split, measured])
    decoded = None
    sizes = [_small_sizes(other) for other in others]
    if all(size is not None for size in sizes):
        decoded = _decode_small([split], sizes[0] if others and train_split is not None else None)
    none = torch.arange(0)
    if decoded is None:
        return large_dataset(name, encoder.names, split.select(none), split, **about)
    dataset = small_dataset(name, encoder.names, *decoded * 2, **about)
    return replace(dataset, train=counted(dataset.test).select(none))


def _lazy_split(
    tables: Tables, split: str, image_key: str, label_key: str, encoder: LabelEncoder, skip_unreadable: bool
) -> LazySplit:
    table = tables.on_disk_table(split)
    for key in (image_key, label_key):
        if not has_column(features_of(table), key):
            raise UserError(f"the split {split!r} has no column {key!r}: it has {', '.join(features_of(table))}")
    labels = encoder.encode(column_values(table, label_key), f"column {label_key!r}, split {split!r}")
    images = undecoded(table.select_columns([image_key]), image_key)
    return LazySplit(images, image_key, label_key, labels, skip_unreadable, tables.folder)


def _decode_small(splits: list[LazySplit], sizes: Counter | None = None) -> list[TensorSplit] | None:
    """All splits in memory, or None as soon as one image is large.

    Args:
        splits: The first is the one to train on.
        sizes: Of the images to train on, where those are not among them.
    """
    decoded = []
    for split in splits:
        images = _decode_all(split)
        if images is None:
            return None
        decoded.append(images)
    sizes = sizes or Counter(image.size for image in decoded[0].values())
    ((size, _),) = sizes.most_common(1)
    gray = all(image.mode == "L" for images in decoded for image in images.values())
    return [
        TensorSplit(stack_images(images.values(), size, "L" if gray else "RGB"), split.labels[list(images)])
        for images, split in zip(decoded, splits, strict=True)
    ]


def _small_sizes(split: LazySplit) -> Counter | None:
    """How often each size, (W, H), comes, from the headers of the files; None as soon as one image is large."""
    sizes: Counter = Counter()
    for index in range(len(split)):
        with contextlib.suppress(ImageFileError):  # nothing is measured on it
            size = split.size(index)
            if max(size) > SMALL_SIDE_PX:
                return None
            sizes[size] += 1
    return sizes


def _decode_all(split: LazySplit) -> dict[int, Image.Image] | None:
    """The images that can be read, by their number; None as soon as one is large."""
    images, first_error = {}, None
    for index in range(len(split)):
        try:
            image = split.decode(index)
        except ImageFileError as error:
            if not split.skip_unreadable:
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
