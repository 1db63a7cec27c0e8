"""Local files that hold many images each (Parquet, Arrow, csv, WebDataset), and the split that each is of."""

from __future__ import annotations

import glob
import json
import os
import re
from pathlib import Path

from timm_asap.data.folder_tree import Folder, LeftOut
from timm_asap.errors import UserError

SUFFIXES = {"parquet": ".parquet", "arrow": ".arrow", "csv": ".csv", "webdataset": ".tar"}
"""Kinds of files, as `datasets` calls them, and how their names end."""

# The rule of `datasets`: one of these words in a name, between these characters.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_BETWEEN = re.compile(r"[-._ 0-9]+")
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}\b")

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files that name the images of a folder and their labels, for `datasets`."""


def find_data_files(folder: Path, kind: str) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The files of a kind in a folder and below it, by split, and what was not read.

    The names of the folders above a file decide, then its own name: test/1.tar, test-00000-of-00002.parquet. Where no
    name says a split, all files are of the split train.

    Args:
        folder: Where to look; links are followed.
        kind: Of `SUFFIXES`.

    Raises:
        UserError: There are none.
    """
    found, left_out = [], LeftOut()
    for path, folders, names in os.walk(folder, followlinks=True):
        inside = os.path.relpath(path, folder).split(os.sep)
        # a link that leads back makes the path longer for ever
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")) and len(inside) < 20)
        for name in sorted(names):
            if SUFFIXES[kind][1:] in name.lower().split(".")[1:] and not name.startswith("."):
                found.append((os.path.join(path, name), [part for part in inside if part != "."], name))
    if not found:
        raise UserError(f"{folder} holds no {SUFFIXES[kind]} files")
    splits: dict[str, list[str]] = {}
    unsorted = []
    for path, inside, name in found:
        split = _split_of(inside, name)
        (unsorted if split is None else splits.setdefault(split, [])).append(path)
    if not splits:
        return {"train": unsorted}, ()
    if unsorted:
        left_out.add("files whose names say no split", os.path.relpath(unsorted[0], folder), len(unsorted))
    return splits, left_out.notes()


def match_files(pattern: Path) -> list[str]:
    """The files that a path or a pattern names; a path with brackets may be either, and is a path if there is one."""
    if pattern.is_file():
        return [str(pattern)]
    if pattern.parent.is_dir():
        pattern = Path(glob.escape(str(pattern.parent))) / pattern.name
    return sorted(path for path in glob.glob(str(pattern)) if os.path.isfile(path))


def literal(paths: list[str]) -> list[str]:
    """Paths for `datasets`, which takes them for patterns."""
    return [glob.escape(path) for path in paths]


def has_metadata(tree: Folder) -> bool:
    """Whether one of `METADATA`, up to two folders deep, has a column file_name: it names images and their labels."""
    places = [tree, *tree.children.values(), *(c for child in tree.children.values() for c in child.children.values())]
    return any(_names_files(Path(place.path) / name) for place in places for name in METADATA)


def _split_of(folders: list[str], name: str) -> str | None:
    for part in folders:
        if split := next((_SPLIT_OF[w] for w in _BETWEEN.split(part.lower()) if w in _SPLIT_OF), None):
            return split
    if shard := _SHARD.match(name):
        return _SPLIT_OF.get(shard[1].lower(), shard[1])
    return next((_SPLIT_OF[word] for word in _BETWEEN.split(name.lower()) if word in _SPLIT_OF), None)


def _names_files(path: Path) -> bool:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            columns = pyarrow.parquet.read_schema(path).names
        else:
            with path.open(encoding="utf-8-sig") as file:
                first = file.readline(2**16)
            columns = list(json.loads(first)) if path.suffix == ".jsonl" else first.strip().split(",")
    except (OSError, ValueError, TypeError):
        return False
    return any(column.strip("\"' ").endswith("file_name") for column in columns if isinstance(column, str))
