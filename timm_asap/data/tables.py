"""The tables that `datasets` reads, on disk, from the Hub or as streams, and which of their splits is which."""

from __future__ import annotations

import glob
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from timm_asap.data.columns import column_values, has_column, row_value, top_column
from timm_asap.errors import UserError, unknown_name

if TYPE_CHECKING:
    import datasets

BUILDERS = ("imagefolder", "parquet", "arrow", "csv", "webdataset")
"""Kinds of local files; their names stand for themselves, with --data-dir."""

PEEK = 64
"""Rows of a stream that are read to see what it holds."""

_BY_SUFFIX = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tar": "webdataset"}
_EXPECTED = {
    "imagefolder": "a folder with one subfolder of images per class",
    "parquet": "a folder of .parquet files, one such file or a pattern of them",
    "arrow": "a folder of .arrow files, one such file or a pattern of them",
    "csv": "a folder with .csv files, whose image column holds paths from that folder on, or one such file",
    "webdataset": "a folder of .tar shards, one shard or a pattern of them",
}
_TEST_SPLITS = ("test", "validation", "valid", "val", "dev")


def load_tables(name: str, data_dir: Path | None, streaming: bool = False) -> dict:
    """Every split of a data set.

    Args:
        name: A Hub id ("uoft-cs/cifar10", or "owner/name:configuration"), a folder, a file or pattern of files that
            ends in .parquet, .arrow, .csv or .tar, or one of `BUILDERS`.
        data_dir: For `BUILDERS`, the folder of files, or a pattern of them; else a folder within the data set.
        streaming: Give `datasets.IterableDataset`, not `datasets.Dataset`.

    Raises:
        UserError: The data set cannot be reached or read.
    """
    # datasets takes seconds to import: the bundled data sets do without it
    import datasets

    builder, where = _local_files(name, data_dir)
    try:
        if builder is not None:
            loaded = datasets.load_dataset(builder, streaming=streaming, **where)
        elif _is_saved(name):
            loaded = datasets.load_from_disk(name)
            if streaming:
                loaded = _as_streams(loaded)
        else:
            path, _, configuration = (name, "", "") if Path(name).is_dir() else name.partition(":")
            inside = data_dir and str(data_dir)
            loaded = datasets.load_dataset(path, configuration or None, data_dir=inside, streaming=streaming)
    except ConnectionError as error:
        raise UserError(
            f"cannot reach the Hugging Face Hub for data set {name!r}: check the name and the network, "
            "or give a folder instead"
        ) from error
    except read_errors() as error:
        what = f"{data_dir}" if name in BUILDERS else f"data set {name!r}"
        raise UserError(f"cannot load {what}: {one_line(error)}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def files_folder(name: str, data_dir: Path | None) -> Path | None:
    """The folder from which paths in a csv file lead to the images; None for other data sets."""
    builder, where = _local_files(name, data_dir)
    if builder != "csv":
        return None
    return Path(where["data_dir"]) if "data_dir" in where else Path(where["data_files"]).parent


def _local_files(name: str, data_dir: Path | None) -> tuple[str | None, dict[str, str]]:
    """The builder for local files and what to give it; None for a Hub id or a folder, which `datasets` looks into."""
    if name in BUILDERS:
        if data_dir is None:
            raise UserError(f"{name} needs --data-dir, {_EXPECTED[name]}")
        if data_dir.is_dir():
            return name, {"data_dir": str(data_dir)}
        if name == "imagefolder" or not glob.glob(str(data_dir)):
            raise UserError(f"--data-dir {data_dir} is no folder and no files: expected {_EXPECTED[name]}")
        return name, {"data_files": str(data_dir)}
    path = Path(name).expanduser()
    if path.suffix in _BY_SUFFIX and not path.is_dir():
        if not glob.glob(str(path)):
            raise UserError(f"there is no file {name}: expected a {path.suffix} file, or a pattern of such files")
        return _BY_SUFFIX[path.suffix], {"data_files": str(path)}
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"there is no folder {name}: expected one that holds a data set")
    return None, {}


def is_local_file(name: str) -> bool:
    """Whether a data set's name is that of a file, or a pattern of files, that can be read."""
    return Path(name).suffix in _BY_SUFFIX


def _is_saved(name: str) -> bool:
    """Whether a folder holds what `save_to_disk` wrote."""
    return any((Path(name) / file).exists() for file in ("dataset_dict.json", "state.json"))


def _as_streams(loaded: datasets.Dataset | datasets.DatasetDict) -> object:
    def stream(table: datasets.Dataset) -> datasets.IterableDataset:
        return table.to_iterable_dataset(num_shards=max(1, min(64, len(table))))

    if isinstance(loaded, dict):
        return {name: stream(table) for name, table in loaded.items()}
    return stream(loaded)


def check_splits(tables: dict, train_split: str | None, test_split: str | None) -> None:
    """Sees that the splits asked for are there.

    Raises:
        UserError: One is not.
    """
    for flag, asked in (("--train-split", train_split), ("--test-split", test_split)):
        if asked is not None and asked not in tables:
            raise UserError(f"{flag}: {unknown_name('split', asked, tables)}")


def find_train_split(tables: dict) -> str:
    """The split to train on: train, or the only one.

    Raises:
        UserError: There are several, none called train.
    """
    if "train" in tables:
        return "train"
    if len(tables) == 1:
        return next(iter(tables))
    raise UserError(f"no split is called train among {', '.join(tables)}: name one with --train-split")


def find_test_split(tables: dict, train_split: str, label_key: str) -> str | None:
    """The split to measure on; None if one has to be held out."""
    for name in _TEST_SPLITS:
        if name in tables and name != train_split and not _labels_are_secret(tables[name], label_key):
            return name
    return None


def find_validation_split(tables: dict, in_use: set[str], label_key: str) -> str | None:
    """A validation split that is neither trained nor measured on."""
    return find_test_split({name: tables[name] for name in tables if name not in {"test", *in_use}}, "", label_key)


def _labels_are_secret(table: datasets.Dataset | datasets.IterableDataset, label_key: str) -> bool:
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


def undecoded(
    table: datasets.Dataset | datasets.IterableDataset, image_key: str
) -> datasets.Dataset | datasets.IterableDataset:
    """The table with its images as they are in their files.

    Raises:
        UserError: The column holds something else.
    """
    import datasets

    try:
        return table.cast_column(image_key, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        came = table.features[image_key]
        raise UserError(f"column {image_key!r} holds no images but {came}: name another with --image-key") from error


def source_of(name: str, data_dir: Path | None, table: datasets.Dataset | datasets.IterableDataset) -> str:
    """What the data are and under which licence, for the model card; of local paths only the last part."""
    licence = table.info.license or "not stated"
    if name in BUILDERS:
        kind = "images" if name == "imagefolder" else f"{name} files"
        return f"{kind} of the folder {data_dir.resolve().name}"
    if is_local_file(name):
        return f"the file {Path(name).name}"
    if Path(name).is_dir():
        return f"the folder {Path(name).resolve().name}, licence {licence}"
    return f"https://huggingface.co/datasets/{name.partition(':')[0]}, licence {licence}"


def read_errors() -> tuple[type[Exception], ...]:
    """What `datasets` raises, depending on the format and on where in the file the damage is."""
    import datasets

    errors = (OSError, EOFError, ValueError, KeyError, RuntimeError, tarfile.TarError, zlib.error)
    return (*errors, datasets.exceptions.DatasetsError)


def one_line(error: BaseException) -> str:
    """The error and what caused it: `datasets` keeps the telling part in the cause."""
    told = error.__cause__ or error
    return " ".join(str(told).split()) or type(told).__name__
