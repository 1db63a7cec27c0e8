"""Data sets that are read as streams: nothing is counted, sorted or held out, only the first rows are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from timm_asap.data.columns import (
    LabelEncoder,
    features_of,
    find_image_column,
    find_label_column,
    flat_features,
    has_column,
    top_column,
)
from timm_asap.data.images import ImageFileError, decode_image, in_folder
from timm_asap.data.split_choice import find_test_split, find_train_split, find_validation_split, notes_on
from timm_asap.data.splits import MIN_SIDE_PX, SMALL_SIDE_PX, ImageDataset, StreamSplit, frame_of, large_dataset
from timm_asap.data.tables import PEEK, Tables, load_tables, one_line, read_errors, source_of, undecoded
from timm_asap.errors import UserError

if TYPE_CHECKING:
    import datasets


def load_stream(
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
    shuffle_buffer: int = 10_000,
) -> ImageDataset:
    """Opens what `datasets.load_dataset` can stream.

    The first 64 images decide: if none has a side above 64 pixels, all are brought to the commonest of their sizes, in
    one channel if those are gray. Small images are normalized by ImageNet's mean and standard deviation too (gray
    ones by the means over its channels), as their own would have to be read for.

    Args:
        name: As for `load_tables`.
        data_dir: Likewise.
        image_key: Column of images, if it cannot be told by its type.
        label_key: Column of labels, likewise; "json.label" is the field label of the column json.
        train_split: Split to train on; "train" or the only one by default.
        test_split: Split to measure on; by default test or validation.
        num_classes: As for `LabelEncoder`; needed where the labels are no `ClassLabel`.
        label_names: Likewise.
        class_order: Likewise.
        skip_unreadable: Replace images that cannot be read, with a warning.
        shuffle_buffer: Most samples that a training process holds to draw from.

    Raises:
        UserError: The data set cannot be reached or read, or lacks images, labels, a split or the number of classes.
    """
    tables = load_tables(name, data_dir, train_split=train_split, test_split=test_split, streaming=True)
    train_split = train_split or find_train_split(tables)
    if test_split == train_split:
        raise UserError(f"the split {train_split!r} cannot be trained and measured on at once: name another")
    tables = replace(tables, loaders={split: _typed(tables, split) for split in tables})
    train_table = tables.stream(train_split)
    features = features_of(train_table)
    image_key = find_image_column(features, image_key)
    label_key = find_label_column(features, label_key)
    encoder = LabelEncoder(flat_features(features)[label_key], None, num_classes, label_names, class_order)
    test_split = test_split or find_test_split(tables, train_split, label_key)
    if test_split is None:
        raise UserError(
            f"{name} has no test split and none can be held out of a stream: expected a split called test or "
            "validation; leave --streaming out, or name one with --test-split"
        )
    val_split = find_validation_split(tables, {train_split, test_split}, label_key)

    small = _small_shape(undecoded(train_table, image_key), image_key, tables.folder, name)

    def split(which: str) -> StreamSplit:
        table = tables.stream(which)
        features = features_of(table)
        for key in (image_key, label_key):
            if not has_column(features, key):
                raise UserError(f"the split {which!r} has no column {key!r}: it has {', '.join(features)}")
        columns = [image_key, top_column(features, label_key)]
        return StreamSplit(
            dataset=undecoded(table.select_columns(columns), image_key),
            image_key=image_key,
            label_key=label_key,
            encoder=encoder,
            len_or_none=tables.counts.get(which),
            small=small,
            source=f"{name}, split {which!r}",
            shuffle_buffer=shuffle_buffer,
            skip_unreadable=skip_unreadable,
            folder=tables.folder,
        )

    splits = [split(which) for which in (train_split, test_split, val_split) if which is not None]
    about: dict[str, Any] = {
        "test_name": test_split,
        "source": source_of(name, data_dir, tables),
        "val_name": val_split,
    }
    about |= {"notes": notes_on(tables, [train_split, test_split, val_split]), "class_order": class_order}
    if small is None:
        return large_dataset(name, encoder.names, *splits, **about)
    return _small_stream(name, encoder.names, splits, small, about)


def _small_stream(
    name: str, label_names: tuple[str, ...], splits: list[StreamSplit], small: tuple[int, int, int], about: dict
) -> ImageDataset:
    channels, height, width = small
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if channels == 1:
        mean, std = ((round(sum(values) / 3, 4),) for values in (mean, std))
    size = (channels, max(height, MIN_SIDE_PX), max(width, MIN_SIDE_PX))
    train, test, *val = splits
    val, frame = val[0] if val else None, frame_of(height, width)
    return ImageDataset(
        name, label_names, train, test, mean=mean, std=std, image_size=size, val=val, frame=frame, **about
    )


def _typed(tables: Tables, split: str) -> Callable[[], datasets.IterableDataset]:
    return lambda: _with_features(tables.stream(split))


def _with_features(table: datasets.IterableDataset) -> datasets.IterableDataset:
    """The stream with the types of its columns known; csv and some formats tell them only by their first rows."""
    if table.features is not None:
        return table
    import datasets

    try:
        rows = datasets.Dataset.from_list(list(table.take(PEEK)))
    except read_errors() as error:
        raise UserError(f"cannot read the first rows of the stream: {one_line(error)}") from error
    return table.cast(rows.features)


def _small_shape(
    table: datasets.IterableDataset, image_key: str, folder: Path | None, name: str
) -> tuple[int, int, int] | None:
    """(C, H, W) of the first images, if they are small."""
    images, error = [], None
    try:
        records = [row[image_key] for row in islice(table, PEEK)]
    except read_errors() as error:
        raise UserError(f"cannot read the first images of {name}: {one_line(error)}") from error
    for row, record in enumerate(records):
        try:
            images.append(decode_image(in_folder(record, folder), f"row {row} of {name}"))
        except ImageFileError as unreadable:
            error = error or unreadable
    if not images:
        raise error or UserError(f"{name} holds no image in its split to train on")
    if any(max(image.size) > SMALL_SIDE_PX for image in images):
        return None
    (((width, height), _),) = Counter(image.size for image in images).most_common(1)
    return (1 if all(image.mode == "L" for image in images) else 3), height, width
