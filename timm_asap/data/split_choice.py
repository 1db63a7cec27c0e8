"""The splits to train and to measure on, and samples held out where a data set has none to measure on.

Samples are also held out to select the best epoch by: no test split is for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from timm_asap.data.columns import column_values, features_of, has_column, row_value, top_column
from timm_asap.data.splits import ImageDataset, ImageSplit, TensorSplit, channel_statistics, counted
from timm_asap.data.tables import PEEK, Tables
from timm_asap.errors import UserError

if TYPE_CHECKING:
    import datasets

Counted = TypeVar("Counted", bound=TensorSplit | ImageSplit)


def hold_out(split: Counted, share: float, seed: int) -> tuple[Counted, Counted]:
    """Divides a split in two, with each class in its proportion and the samples in their order.

    Args:
        split: What to divide.
        share: Of the samples, in the second part; between 0 and 1.
        seed: Which of them.

    Returns:
        The remaining samples, and those held out.

    Raises:
        UserError: There are too few samples to have every class on both sides.
    """
    # scikit-learn takes two seconds to import: only data sets that are divided need it
    from sklearn.model_selection import train_test_split

    indices = torch.arange(len(split))
    try:
        parts = train_test_split(indices.numpy(), test_size=share, random_state=seed, stratify=split.labels.numpy())
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{100 * share:.3g} % of the {len(split)} training samples cannot be held out with every class on both "
            f"sides ({reason}): add samples"
        ) from error
    kept, held_out = (torch.from_numpy(part).sort().values for part in parts)
    return split.select(kept), split.select(held_out)


def hold_out_fifth(split: Counted, seed: int) -> tuple[Counted, Counted, str]:
    """Splits off a fifth of the samples to measure on, with each class in its proportion; of very few, one of each.

    Args:
        split: What to divide.
        seed: Which fifth.

    Returns:
        The remaining samples, those held out, and their name for `ImageDataset.test_name`.

    Raises:
        UserError: There are too few samples to have every class on both sides.
    """
    # nobody asked for a fifth: of a few images it is one of each class
    classes = len(split.labels.unique())
    share = max(0.2, classes / max(1, len(split)))
    try:
        kept, held_out = hold_out(split, share, seed)
    except UserError as error:
        raise UserError(f"no test split, and {error}, or a test split") from error
    name = "fifth" if share == 0.2 else f"{len(held_out)} images"
    return kept, held_out, f"held-out {name}, seed {seed}"


def hold_out_validation(dataset: ImageDataset, share: float, seed: int) -> ImageDataset:
    """The data set with a share of its training samples moved to `val`, and the test samples as they were.

    Mean and standard deviation of small images are measured again, on what is left to train on.

    Args:
        dataset: What to divide.
        share: Of the training samples; between 0 and 1.
        seed: Which of them.

    Raises:
        UserError: There are too few samples to have every class on both sides.
    """
    try:
        train, val = hold_out(counted(dataset.train), share, seed)
    except UserError as error:
        raise UserError(f"--val-share {share:g}: {error}, or leave it out") from error
    mean, std = dataset.mean, dataset.std
    if isinstance(train, TensorSplit):
        mean, std = channel_statistics(train.images)
    name = f"held-out {100 * share:.3g} % of train, seed {seed}"
    return replace(dataset, train=train, val=val, val_name=name, mean=mean, std=std)


_TEST_SPLITS = ("test", "validation", "valid", "val", "dev", "holdout")


def find_train_split(tables: Mapping) -> str:
    """The split to train on: train, or the only one, if it is not called as one to measure on.

    Raises:
        UserError: There is none.
    """
    if "train" in tables:
        return "train"
    if len(tables) == 1 and next(iter(tables)) not in _TEST_SPLITS:
        return next(iter(tables))
    raise UserError(f"no split is called train among {', '.join(tables)}: name one with --train-split")


def test_splits(tables: Mapping, train_split: str | None) -> list[str]:
    """The splits that may be measured on, the first one best."""
    return [name for name in _TEST_SPLITS if name in tables and name != train_split]


def find_test_split(tables: Mapping, train_split: str, label_key: str) -> str | None:
    """The split to measure on; None if one has to be held out."""
    names = test_splits(tables, train_split)
    return next((name for name in names if not labels_are_secret(tables[name], label_key)), None)


def find_validation_split(tables: Mapping, in_use: set[str | None], label_key: str) -> str | None:
    """A validation split that is neither trained nor measured on."""
    names = [name for name in test_splits(tables, None) if name not in {"test", *in_use}]
    return next((name for name in names if not labels_are_secret(tables[name], label_key)), None)


def labels_are_secret(table: datasets.Dataset | datasets.IterableDataset, label_key: str) -> bool:
    """Whether a benchmark keeps these labels for itself: no column of them, or nothing but -1 in it.

    Of a stream only the first rows are looked at.
    """
    import datasets

    features = features_of(table)
    if not has_column(features, label_key):
        return True
    if isinstance(table, datasets.Dataset):
        labels = column_values(table, label_key)
    else:
        # without the images, which would be decoded
        alone = table.select_columns([top_column(features, label_key)])
        labels = [row_value(row, features, label_key) for row in alone.take(PEEK)]
    return all(label in (None, -1) for label in labels)


def notes_on(tables: Tables, used: Sequence[str | None]) -> tuple[str, ...]:
    """Where splits were found, what was not read, and which splits are not used; a line each."""
    where = [f"{split} in {place}" for split, place in tables.places.items() if place not in (split, ".")]
    unused = [
        f"not used: the split {split}" + (f", {tables.counts[split]:,} images" if split in tables.counts else "")
        for split in tables
        if split not in used
    ]
    return (*([f"folders: {', '.join(where)}"] if where else []), *tables.notes, *unused)
