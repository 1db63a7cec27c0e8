"""Which split of a data set is trained on, which one is measured on, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from timm_asap.data.columns import column_values, has_column, row_value, top_column
from timm_asap.data.tables import PEEK, Tables
from timm_asap.errors import UserError

if TYPE_CHECKING:
    import datasets

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

    if not has_column(table.features, label_key):
        return True
    if isinstance(table, datasets.Dataset):
        labels = column_values(table, label_key)
    else:
        # without the images, which would be decoded
        alone = table.select_columns([top_column(table.features, label_key)])
        labels = [row_value(row, table.features, label_key) for row in alone.take(PEEK)]
    return all(label in (None, -1) for label in labels)


def notes_on(tables: Tables, used: list[str | None]) -> tuple[str, ...]:
    """Where splits were found, what was not read, and which splits are not used; a line each."""
    where = [f"{split} in {place}" for split, place in tables.places.items() if place not in (split, ".")]
    unused = [
        f"not used: the split {split}" + (f", {tables.counts[split]:,} images" if split in tables.counts else "")
        for split in tables
        if split not in used
    ]
    return (*([f"folders: {', '.join(where)}"] if where else []), *tables.notes, *unused)
