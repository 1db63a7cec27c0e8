"""The tables of a data set, one for each split: on the disk, from the Hub, or as streams."""

from __future__ import annotations

import glob
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from timm_asap.data.class_folders import ClassFolders, read_class_folders, split_folders
from timm_asap.data.columns import features_of
from timm_asap.data.folder_tree import (
    METADATA,
    SUFFIXES,
    find_data_files,
    has_metadata,
    literal,
    match_files,
    scan,
    tree_of,
)
from timm_asap.errors import UserError, unknown_name

if TYPE_CHECKING:
    import datasets

    Table = TypeVar("Table", datasets.Dataset, datasets.IterableDataset)

BUILDERS = ("imagefolder", *SUFFIXES)
"""Kinds of local files; their names stand for themselves, with --data-dir."""

PEEK = 64
"""Rows of a stream that are read to see what it holds."""

_BY_SUFFIX = {suffix: kind for kind, suffix in SUFFIXES.items()}
_EXPECTED = {
    "imagefolder": "a folder with one subfolder of images per class",
    "parquet": "a folder of .parquet files, one such file or a pattern of them",
    "arrow": "a folder of .arrow files, one such file or a pattern of them",
    "csv": "a folder with .csv files, whose image column holds paths from that folder on, or one such file",
    "webdataset": "a folder of .tar shards, one shard or a pattern of them",
}
_MOST_SHARDS = 64
# A README.md whose front matter says where the files of each split are, or what columns they have.
_CARD_OF_DATA = re.compile(r"---\n(?:(?!---\n).*\n)*?(configs|dataset_info):")


@dataclass(frozen=True, eq=False)
class Tables(Mapping):
    """The splits of a data set by name: `datasets.Dataset`, or `datasets.IterableDataset` of a stream.

    Args:
        loaders: What gives each split; called once, when the split is asked for.
        license: Of the data set, where it says so.
        counts: Images of a split, where they are known.
        places: Folder that a split was read from, where splits are folders.
        folder: From which relative paths of images lead; None where paths are complete.
        notes: What was not read, a line for each kind.
        on_disk: Whether every split is on the disk already.
    """

    loaders: Mapping[str, Callable[[], datasets.Dataset | datasets.IterableDataset]]
    license: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    on_disk: bool = True
    _loaded: dict = field(default_factory=dict, init=False)

    def __getitem__(self, split: str) -> datasets.Dataset | datasets.IterableDataset:
        if split not in self._loaded:
            self._loaded[split] = self.loaders[split]()
        return self._loaded[split]

    def on_disk_table(self, split: str) -> datasets.Dataset:
        """A split of tables that were not loaded as streams."""
        return cast("datasets.Dataset", self[split])

    def stream(self, split: str) -> datasets.IterableDataset:
        """A split of tables that were loaded as streams."""
        return cast("datasets.IterableDataset", self[split])

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)

    def __contains__(self, split: object) -> bool:
        return split in self.loaders


def load_tables(
    name: str,
    data_dir: Path | None,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    streaming: bool = False,
    one_by_one: bool = False,
) -> Tables:
    """Every split of a data set.

    Args:
        name: A Hub id ("uoft-cs/cifar10", or "owner/name:configuration"), a folder, a file or pattern of files that
            ends in .parquet, .arrow, .csv or .tar, or one of `BUILDERS`.
        data_dir: For `BUILDERS`, the folder of files, or a pattern of them; else a folder within the data set.
        train_split: A split that must be there; of class folders, the name of its folder.
        test_split: Likewise.
        streaming: Give `datasets.IterableDataset`, not `datasets.Dataset`.
        one_by_one: Of the Hub, fetch a split when it is asked for, and no other one.

    Raises:
        UserError: The data set cannot be reached or read, or lacks a split.
    """
    asked: dict[str, Any] = {"train_split": train_split, "test_split": test_split}
    folder, kind, files = _local(name, data_dir)
    what = f"{data_dir}" if name in BUILDERS else f"data set {name!r}"
    with _reported(name, what):
        if folder is not None and kind == "imagefolder":
            tables = _class_folder_tables(folder, streaming, **asked)
        elif folder is not None and kind is not None:
            tables = _file_tables(kind, folder, files, streaming)
        elif _is_saved(name):
            tables = _saved_tables(name, streaming)
        elif folder is not None:
            tables = _loaded_tables(name, data_dir=data_dir and str(data_dir), streaming=streaming)
        else:
            tables = _hub_tables(name, data_dir, streaming, one_by_one, **asked)
    for flag, split in (("--train-split", train_split), ("--test-split", test_split)):
        if split is not None and split not in tables:
            raise UserError(f"{flag}: {unknown_name('split', split, tables)}")
    return tables


@contextmanager
def _reported(name: str, what: str) -> Iterator[None]:
    """Turns what `datasets` raises into one line for the user."""
    try:
        yield
    except UserError:
        raise
    except ConnectionError as error:
        raise UserError(
            f"cannot reach the Hugging Face Hub for data set {name!r}: check the name and the network, "
            "or give a folder instead"
        ) from error
    except read_errors() as error:
        raise UserError(f"cannot load {what}: {one_line(error)}") from error


def _local(name: str, data_dir: Path | None) -> tuple[Path | None, str | None, list[str] | None]:
    """Folder, kind and, where they were given by name, files of local data; no kind for what `datasets` looks into."""
    if name in BUILDERS:
        if data_dir is None:
            raise UserError(f"{name} needs --data-dir, {_EXPECTED[name]}")
        if data_dir.is_dir():
            return data_dir, name, None
        files = [] if name == "imagefolder" else match_files(data_dir)
        if not files:
            raise UserError(f"--data-dir {data_dir} is no folder and no files: expected {_EXPECTED[name]}")
        return data_dir.parent, name, files
    path = Path(name).expanduser()
    if path.is_dir():
        return path, _kind_of_folder(path), None
    if path.suffix in _BY_SUFFIX:
        files = match_files(path)
        if not files:
            raise UserError(f"there is no file {name}: expected a {path.suffix} file, or a pattern of such files")
        return path.parent, _BY_SUFFIX[path.suffix], files
    if name.startswith((".", "/", "~")):
        raise UserError(f"there is no folder {name}: expected one that holds a data set")
    return None, None, None


def _kind_of_folder(path: Path) -> str | None:
    """What a folder holds: class folders, or files of a kind. None for what only `datasets` knows."""
    if _is_saved(str(path)) or _CARD_OF_DATA.match(_text(path / "README.md")):
        return None
    tree, left_out = scan(path)
    for suffix in (".parquet", ".arrow", ".tar"):
        if left_out.count_of(suffix) and not has_metadata(tree):
            return _BY_SUFFIX[suffix]
    if tree.total:
        return "imagefolder"
    return "csv" if left_out.count_of(".csv") else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _class_folder_tables(folder: Path, streaming: bool, **asked: Any) -> Tables:
    scanned = scan(folder)
    if has_metadata(scanned[0]):
        inside = {split: [f"{pattern}/**" for pattern in literal(paths)] for split, paths in split_folders(scanned[0])}
        return _loaded_tables("imagefolder", data_files=inside, streaming=streaming)
    found = read_class_folders(folder, **asked, scanned=scanned)
    train = asked["train_split"] or "train"
    return _tables_of_folders(found, lambda split: _table_of_folders(found, split, streaming, split == train))


def _table_of_folders(
    found: ClassFolders, split: str, streaming: bool, mixed: bool
) -> datasets.Dataset | datasets.IterableDataset:
    # takes seconds to import: the bundled data sets do without it
    import datasets

    paths, labels = found.splits[split]
    if streaming and mixed:
        # a stream is shuffled within a buffer: in the order of the folders, that holds a single class
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
        paths, labels = [paths[i] for i in order], [labels[i] for i in order]
    names = datasets.ClassLabel(names=list(found.label_names))
    features = datasets.Features({"image": datasets.Value("string"), "label": names})
    rows = datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    return _as_stream(rows) if streaming else rows


def _tables_of_folders(
    found: ClassFolders, load: Callable[[str], datasets.Dataset | datasets.IterableDataset], **about: Any
) -> Tables:
    return Tables(
        {split: partial(load, split) for split in found.splits},
        counts={split: len(paths) for split, (paths, _) in found.splits.items()},
        places=found.places,
        notes=found.notes,
        **about,
    )


def _file_tables(kind: str, folder: Path, files: list[str] | None, streaming: bool) -> Tables:
    splits, notes = ({"train": files}, ()) if files is not None else find_data_files(folder, kind)
    tables = _loaded_tables(
        kind, data_files={split: literal(paths) for split, paths in splits.items()}, streaming=streaming
    )
    return Tables(tables.loaders, tables.license, folder=folder if kind == "csv" else None, notes=notes)


def _loaded_tables(path: str, configuration: str | None = None, **options: Any) -> Tables:
    import datasets

    loaded = datasets.load_dataset(path, configuration, **options)
    return _tables_of(loaded)


def _saved_tables(name: str, streaming: bool) -> Tables:
    import datasets

    loaded = datasets.load_from_disk(name)
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return _tables_of({split: _as_stream(table) for split, table in splits.items()} if streaming else splits)


def _hub_tables(name: str, data_dir: Path | None, streaming: bool, one_by_one: bool, **asked: Any) -> Tables:
    """Splits of the Hub; one by one, each is fetched when it is asked for."""
    import datasets

    path, configuration = _path_and_configuration(name)
    inside = data_dir and data_dir.as_posix()
    try:
        builder = datasets.load_dataset_builder(path, configuration, data_dir=inside)
    except ConnectionError:
        with suppress(OSError):  # nothing was fetched of it
            if tables := _hub_folder_tables(path, inside, streaming, offline=True, **asked):
                return tables
        raise
    files = builder.config.data_files or {}
    prefix = f"hf://datasets/{path}@"
    first = next((str(file) for listed in files.values() for file in listed), "")
    if not first.startswith(prefix):
        return _loaded_tables(path, configuration, data_dir=inside, streaming=streaming)
    revision = first.removeprefix(prefix).partition("/")[0]
    if builder.name == "imagefolder" and (tables := _hub_folder_tables(path, inside, streaming, **asked)):
        return replace(tables, license=builder.info.license)
    if streaming or not one_by_one:
        return _loaded_tables(path, configuration, data_dir=inside, streaming=streaming)

    def table(split: str) -> datasets.Dataset:
        names = [str(file).removeprefix(f"{prefix}{revision}/") for file in files[split]]
        with _reported(name, f"data set {name!r}"):
            return datasets.load_dataset(
                path,
                configuration,
                data_files={split: literal(names)},
                split=split,
                revision=revision,
                features=builder.info.features,
            )

    loaders = {str(split): partial(table, str(split)) for split in files}
    return Tables(loaders, license=builder.info.license, on_disk=False)


def _hub_folder_tables(
    path: str, inside: str | None, streaming: bool, offline: bool = False, **asked: Any
) -> Tables | None:
    """Class folders of images on the Hub: the folders decide, as on the disk. None where a card or a file does.

    Offline, those that an earlier run fetched.
    """
    from huggingface_hub import HfApi, snapshot_download

    def fetch(pattern: str, revision: str | None = None) -> str:
        return snapshot_download(
            path, repo_type="dataset", revision=revision, allow_patterns=[pattern], local_files_only=offline
        )

    # of the newest revision: the cache then knows which that was, without which it is no use offline
    about = fetch("README.md")
    revision = Path(about).name
    root = Path(about) / (inside or "")
    # a stream opens each file where it is when its turn comes
    base = f"hf://datasets/{path}@{revision}" if streaming and not offline else about
    if offline:
        scanned, names = scan(root), []
    else:
        names = HfApi().list_repo_files(path, repo_type="dataset", revision=revision)
        start = f"{inside.strip('/')}/" if inside else ""
        inner = [name.removeprefix(start) for name in names if name.startswith(start) and name != "README.md"]
        scanned = tree_of("/".join([base, *filter(None, [inside])]), inner)
    if _CARD_OF_DATA.match(_text(Path(about) / "README.md")) or any(Path(name).name in METADATA for name in names):
        return None
    if not scanned[0].total:
        return None
    found = read_class_folders(root, **asked, scanned=scanned)

    def table(split: str) -> datasets.Dataset | datasets.IterableDataset:
        if base != about:
            return _fetched(_table_of_folders(found, split, streaming, split == (asked["train_split"] or "train")))
        place = Path(os.path.commonpath(map(os.path.dirname, found.splits[split][0]))).relative_to(about).as_posix()
        # a pattern of the Hub's client, in which * stands for slashes, too
        with _reported(path, f"data set {path!r}"):
            fetch("*" if place == "." else f"{glob.escape(place)}/*", revision)
        return _table_of_folders(found, split, streaming, mixed=False)

    return _tables_of_folders(found, table, on_disk=False)


def _fetched(table: datasets.Dataset | datasets.IterableDataset) -> datasets.Dataset | datasets.IterableDataset:
    """A stream of images on the Hub with their bytes."""
    from huggingface_hub import HfFileSystem

    files = HfFileSystem()

    def fetch(row: dict) -> dict:
        path = row["image"]["path"]
        return {**row, "image": {"bytes": files.cat_file(path), "path": path}}

    return table.map(fetch, features=table.features)


def _tables_of(loaded: Mapping | datasets.Dataset | datasets.IterableDataset) -> Tables:
    splits: dict[str, Any] = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    first = next(iter(splits.values()))
    counted = {name: info.num_examples for name, info in (first.info.splits or {}).items() if info.num_examples}
    loaders = {name: partial(_same, table) for name, table in splits.items()}
    return Tables(loaders, first.info.license, counted)


def _same(table: datasets.Dataset | datasets.IterableDataset) -> datasets.Dataset | datasets.IterableDataset:
    return table


def _path_and_configuration(name: str) -> tuple[str, str | None]:
    path, _, configuration = name.partition(":")
    return path, configuration or None


def is_local_file(name: str) -> bool:
    """Whether a data set's name is that of a file, or a pattern of files, that can be read."""
    return Path(name).suffix in _BY_SUFFIX


def _is_saved(name: str) -> bool:
    """Whether a folder holds what `save_to_disk` wrote."""
    return any((Path(name) / file).exists() for file in ("dataset_dict.json", "state.json"))


def _as_stream(table: datasets.Dataset) -> datasets.IterableDataset:
    return table.to_iterable_dataset(num_shards=max(1, min(_MOST_SHARDS, len(table))))


def undecoded(table: Table, image_key: str) -> Table:
    """The table with its images as they are in their files.

    Raises:
        UserError: The column holds something else.
    """
    import datasets

    try:
        return table.cast_column(image_key, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        came = features_of(table)[image_key]
        raise UserError(f"column {image_key!r} holds no images but {came}: name another with --image-key") from error


def source_of(name: str, data_dir: Path | None, tables: Tables) -> str:
    """What the data are and under which license, for the model card; of local paths only the last part."""
    license = tables.license or "not stated"
    if name in BUILDERS:
        kind = "images" if name == "imagefolder" else f"{name} files"
        return f"{kind} of the folder {(data_dir or Path()).resolve().name}"
    if is_local_file(name):
        return f"the file {Path(name).name}"
    if Path(name).is_dir():
        return f"the folder {Path(name).resolve().name}, license {license}"
    return f"https://huggingface.co/datasets/{name.partition(':')[0]}, license {license}"


def read_errors() -> tuple[type[Exception], ...]:
    """What `datasets` raises, depending on the format and on where in the file the damage is."""
    from datasets.exceptions import DatasetsError

    errors = (OSError, EOFError, ValueError, KeyError, RuntimeError, tarfile.TarError, zlib.error)
    return (*errors, DatasetsError)


def one_line(error: BaseException) -> str:
    """The error and what caused it: `datasets` keeps the telling part in the cause."""
    told = error.__cause__ or error
    return " ".join(str(told).split()) or type(told).__name__
