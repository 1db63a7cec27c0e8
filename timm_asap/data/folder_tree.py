"""The files in a data set's folder: images, or files that hold many each (Parquet, Arrow, csv, WebDataset).

What is left out is counted, with the reason.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from timm_asap.errors import UserError

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
"""Ends of the names of image files, in small letters; how a file is decoded depends on what is in it."""

# What systems and programs leave behind, in small letters; it is not even counted.
_JUNK = frozenset(
    {
        *(
            ".ds_store",
            ".localized",
            ".trashes",
            ".spotlight-v100",
            ".fseventsd",
            ".temporaryitems",
            "__macosx",
            "icon\r",
        ),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *(".directory", ".trash", "lost+found", "@eadir", "#recycle", ".ipynb_checkpoints", "__pycache__"),
        *(".git", ".gitattributes", ".gitignore", ".gitkeep", ".cache", ".nomedia"),
    }
)
_DEEPEST = 100


@dataclass
class Folder:
    """A folder as it lies on the disk.

    Args:
        path: Where it is.
        parts: The names that lead to it from the folder that was scanned; none for that one.
        images: Names of its own image files, sorted.
        identities: Of those files on the disk; links to one file have one identity.
        children: Its folders by name, sorted.
        total: Images in it and below.
    """

    path: str
    parts: tuple[str, ...] = ()
    images: list[str] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)
    children: dict[str, Folder] = field(default_factory=dict)
    total: int = 0

    @property
    def name(self) -> str:
        """Its own name."""
        return self.parts[-1] if self.parts else os.path.basename(os.path.abspath(self.path))

    @property
    def with_images(self) -> list[Folder]:
        """Its folders that hold images, at any depth."""
        return [child for child in self.children.values() if child.total]

    def walk(self) -> Iterator[Folder]:
        """This folder and all below it, each before those in it."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def files(self) -> Iterator[tuple[str, int]]:
        """Path and identity of every image in it and below, in the order of their paths."""
        own = dict(zip(self.images, self.identities, strict=True))
        for name in sorted([*own, *self.children]):
            if name in own:
                yield f"{self.path}/{name}" if "://" in self.path else os.path.join(self.path, name), own[name]
            if name in self.children:
                yield from self.children[name].files()


class LeftOut:
    """What was not read, by kind, with how often and an example."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._suffixes: Counter[str] = Counter()

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Counts some of a kind.

        Args:
            kind: What they are, in the plural.
            example: The path of one, from the folder that was scanned on.
            count: How many.
        """
        if count:
            self._counts[kind] += count
            self._examples.setdefault(kind, one_line(example))

    def add_file(self, name: str) -> None:
        """Counts a file that is no image."""
        self._suffixes[os.path.splitext(name)[1].lower() or name] += 1

    def remove_file(self, name: str) -> None:
        """Takes one back that `add_file` counted: it was read after all."""
        suffix = os.path.splitext(name)[1].lower() or name
        self._suffixes[suffix] -= 1
        self._suffixes += Counter()  # without those that are none any more

    def count_of(self, suffix: str) -> int:
        """Of the files that are no images, those whose names end so."""
        return self._suffixes[suffix]

    @property
    def other_files(self) -> str:
        """The files that are no images, by how their names end: "12 .zip, 1 .txt"; "" without any."""
        commonest = sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0]))[:4]
        kinds = [f"{count} {one_line(suffix)}" for suffix, count in commonest]
        return ", ".join(kinds) + (", ..." if len(self._suffixes) > 4 else "")

    def notes(self) -> tuple[str, ...]:
        """A line for each kind."""
        lines = [f"not read: {kind}, {count:,} ({self._examples[kind]})" for kind, count in self._counts.items()]
        if self._suffixes:
            lines.append(f"not read: files that are no images, {sum(self._suffixes.values()):,} ({self.other_files})")
        return tuple(lines)


def scan(root: Path) -> tuple[Folder, LeftOut]:
    """Looks through a folder and all below it, links included.

    Args:
        root: The folder.

    Raises:
        UserError: A folder cannot be read, or its name cannot be written down.
    """
    left_out = LeftOut()
    tree = Folder(str(root))
    order = [tree]
    # with the folders that lead to each, by which a link that leads back is known
    pending = deque([(tree, frozenset())])
    while pending:
        folder, above = pending.popleft()
        own = _identity(folder.path)
        above |= {own}
        for entry in _entries(folder):
            place = "/".join((*folder.parts, entry.name))
            if entry.name.startswith("._") or entry.name.casefold() in _JUNK:
                continue
            if _is(entry.is_dir):
                if kind := _unread_folder(entry, folder, above):
                    left_out.add(kind, place)
                else:
                    folder.children[entry.name] = Folder(entry.path, (*folder.parts, entry.name))
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                if kind := _unread_image(entry):
                    left_out.add(kind, place)
                else:
                    folder.images.append(entry.name)
                    identity = _identity(entry.path) if entry.is_symlink() else (own[0], entry.inode())
                    folder.identities.append(hash(identity))
            elif not entry.name.startswith("."):
                left_out.add_file(entry.name)
        order += folder.children.values()
        pending.extend((child, above) for child in folder.children.values())
    for folder in reversed(order):
        folder.total = len(folder.images) + sum(child.total for child in folder.children.values())
        if not folder.images and not folder.children and folder is not tree:
            left_out.add("folders without images", "/".join(folder.parts))
    return tree, left_out


def tree_of(root: str, names: Iterable[str]) -> tuple[Folder, LeftOut]:
    """What `scan` would find in a folder that holds these files and is not on the disk.

    Args:
        root: Where the folder is, or will be: a path or an address.
        names: Of the files, from there on, with slashes.
    """
    left_out = LeftOut()
    tree = Folder(root)
    for name in sorted(names):
        *parts, file = name.split("/")
        if file.startswith("._") or any(part.casefold() in _JUNK for part in (*parts, file)):
            continue
        if any(part.startswith(".") for part in (*parts, file)):
            left_out.add("hidden files", name)
        elif os.path.splitext(file)[1].lower() not in IMAGE_SUFFIXES:
            left_out.add_file(file)
        else:
            folder = tree
            folder.total += 1
            for part in parts:
                folder = folder.children.setdefault(part, Folder(f"{folder.path}/{part}", (*folder.parts, part)))
                folder.total += 1
            folder.images.append(file)
            folder.identities.append(hash(name))
    return tree, left_out


def one_line(name: str) -> str:
    """A name of a file or folder as it can stand in a line of text."""
    return " ".join(str(name).split()).encode(errors="replace").decode()


def _unread_folder(entry: os.DirEntry, folder: Folder, above: frozenset) -> str | None:
    """Why a folder is not looked into."""
    if entry.name.startswith("."):
        return "hidden folders"
    if _identity(entry.path) in above:
        return "links that lead back to a folder above them"
    if len(folder.parts) == _DEEPEST:
        return f"folders more than {_DEEPEST} deep"
    if not _is_text(entry.name):
        raise UserError(f"the name of the folder {one_line(entry.path)} is not UTF-8: rename it")
    return None


def _unread_image(entry: os.DirEntry) -> str | None:
    """Why a file that is called as an image is not read."""
    if entry.name.startswith("."):
        return "hidden images"
    if not _is(entry.is_file):
        return "broken links" if entry.is_symlink() else "images that are no regular files"
    return None if _is_text(entry.name) else "images whose names are not UTF-8"


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads to itself
        return False


def _entries(folder: Folder) -> list[os.DirEntry]:
    try:
        with os.scandir(folder.path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {one_line(folder.path)}: {error.strerror}") from error


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
