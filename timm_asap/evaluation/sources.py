"""The images to measure on: a data set by name, or a robustness set on disk.

ImageNet-C, CIFAR-10-C and folders of classes are read as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from timm_asap.data import ImageDataset, LazySplit, Split, TensorSplit, leave_out_unreadable
from timm_asap.data.class_folders import read_class_folders
from timm_asap.data.columns import UnknownClassesError, in_order
from timm_asap.data.splits import SMALL_SIDE_PX, counted, large_dataset, small_dataset
from timm_asap.errors import UserError
from timm_asap.evaluation.config import EvaluateConfig
from timm_asap.evaluation.models import open_model

__all__ = [
    "FOLDER_SETS",
    "MeasuredData",
    "cifar10_c_split",
    "class_folders",
    "corruptions_in",
    "find_corruptions",
    "load_data",
]


def class_folders(
    folder: Path, names: tuple[str, ...] | None = None, class_order: str | None = None
) -> tuple[LazySplit, tuple[str, ...], tuple[str, ...]]:
    """All images of a folder with one subfolder per class, in the order of their paths.

    Args:
        folder: Where they are, or the one folder in it that holds them.
        names: The classes that it must have, in their order, where another folder has set them.
        class_order: As for `timm_asap.data.load_dataset`.

    Returns:
        The images, the names of the classes, and lines on what was not read.

    Raises:
        UserError: If there are no such folders, no images, or several splits.
    """
    # takes seconds to import: only these data sets need it
    import datasets

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: expected one with a subfolder of images per class")
    found = read_class_folders(folder)
    if len(found.splits) > 1:
        places = ", ".join(found.places.values())
        raise UserError(f"{folder} holds several splits ({places}): give one of them as --data-dir")
    ((split, (paths, labels)),) = found.splits.items()
    order = names if names is not None else in_order(found.label_names, class_order or "alphabetical")
    if set(order) != set(found.label_names):
        other = sorted(set(order) ^ set(found.label_names))
        raise UserError(f"{folder} has other classes than its neighbors, such as {other[0]}: fetch it again")
    number = {name: label for label, name in enumerate(order)}
    new = torch.tensor([number[name] for name in found.label_names])
    numbers = new[torch.tensor(labels)]
    by_number = torch.sort(numbers, stable=True).indices
    table = datasets.Dataset.from_dict({"image": [paths[i] for i in by_number.tolist()]})
    table = table.cast_column("image", datasets.Image(decode=False))
    where = () if found.places[split] == "." else (f"folders: {found.places[split]}",)
    return LazySplit(table, "image", "label", numbers[by_number]), tuple(order), (*where, *found.notes)


def find_corruptions(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Where each corruption of ImageNet-C lies: its tar files unpack to FOLDER/fog or to FOLDER/weather/fog.

    Args:
        folder: The folder of the data set.
        names: The corruptions to find.

    Raises:
        UserError: If one is not there.
    """
    if not folder.is_dir():
        raise UserError(f"--data-dir {folder} is no folder: expected the one that ImageNet-C was unpacked to")
    groups = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    places: dict[str, Path] = {}
    for name in names:
        place = next((g / name for g in groups if (g / name / "1").is_dir()), None)
        if place is None:
            raise UserError(f"--data-dir {folder} holds no {name}: expected {name}/1 to {name}/5 in it")
        places[name] = place
    return places


def corruptions_in(folder: Path, dataset: str, names: tuple[str, ...]) -> list[str]:
    """Which corruptions a folder holds.

    Args:
        folder: Of the data set.
        dataset: imagenet-c or cifar10-c.
        names: The corruptions to look for.
    """
    if dataset == "cifar10-c":
        return [name for name in names if (folder / f"{name}.npy").is_file()]
    groups = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    return [name for name in names if any((group / name / "1").is_dir() for group in groups)]


def cifar10_c_split(folder: Path, corruption: str, severity: int) -> TensorSplit:
    """One corruption and severity of CIFAR-10-C: NAME.npy holds the severities one after the other.

    Args:
        folder: Where the .npy files are.
        corruption: The name of the corruption.
        severity: 1 to 5.

    Returns:
        The images in the order of CIFAR-10's test set, (N, 3, 32, 32).

    Raises:
        UserError: If the file is missing or is not what its name says.
    """
    images, labels = _read(folder / f"{corruption}.npy"), _read(folder / "labels.npy")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) % 5:
        raise UserError(
            f"{folder / corruption}.npy holds {images.dtype} of shape {images.shape}: expected uint8, "
            "(5 x images, height, width, 3)"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(
            f"{folder / 'labels.npy'} holds {labels.dtype} of shape {labels.shape}: expected one integer for each of "
            f"the {len(images)} images"
        )
    count = len(images) // 5
    rows = slice((severity - 1) * count, severity * count)
    pixels = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2)))
    return TensorSplit(pixels, torch.from_numpy(labels[rows].astype(np.int64)))


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path} is missing: expected the .npy files of CIFAR-10-C in --data-dir")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; fetch the file again") from error


_IMAGENET_C = (
    "ImageNet-C (D. Hendrycks and T. Dietterich, ICLR 2019, doi:10.5281/zenodo.2235448, CC BY 4.0), corrupted images "
    "read from disk"
)
_CIFAR10_C = (
    "CIFAR-10-C (D. Hendrycks and T. Dietterich, ICLR 2019, doi:10.5281/zenodo.2535967, CC BY 4.0), corrupted images "
    "read from disk"
)
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Sets of class folders that are for measuring only, and what a record says of them.
_CLASS_FOLDERS = {
    "imagenet-a": "ImageNet-A (D. Hendrycks et al., CVPR 2021, arXiv:1907.07174), 200 of ImageNet's classes",
    "imagenet-r": "ImageNet-R (D. Hendrycks et al., ICCV 2021, arXiv:2006.16241), 200 of ImageNet's classes",
    "imagenet-v2": "ImageNetV2 (B. Recht et al., ICML 2019, arXiv:1902.10811)",
    "class-folders": None,
}

FOLDER_SETS = ("imagenet-c", "cifar10-c", *_CLASS_FOLDERS)
"""Data sets that are read as they are from --data-dir, besides those that `load_dataset` knows."""


@dataclass(frozen=True, eq=False)
class MeasuredData:
    """Images with labels, clean or corrupted.

    Args:
        dataset: Where they come from.
        split: The clean images; for a set of corrupted ones, its first corruption.
        split_name: Which images these are.
        crop_pct: Fraction of the side that the center crop keeps; None leaves it to the model.
        corrupted: From a corruption and a severity to images that are corrupted already; None where the images are
            clean.
    """

    dataset: ImageDataset
    split: Split
    split_name: str
    crop_pct: float | None = None
    corrupted: Callable[[str, int], Split] | None = None

    @property
    def labels_sha256(self) -> str:
        """SHA-256 of the labels in their order, as int64: whether two records numbered the same images."""
        return hashlib.sha256(counted(self.split).labels.to(torch.int64).numpy().tobytes()).hexdigest()


def load_data(config: EvaluateConfig) -> MeasuredData:
    """The images that a configuration names.

    Raises:
        UserError: If the name is unknown, or the images are missing or damaged.
    """
    if config.dataset in FOLDER_SETS:
        columns = ("image_key", "label_key", "train_split", "test_split", "num_classes", "label_names")
        if given := [name for name in columns if getattr(config, name) is not None]:
            raise UserError(f"data set {config.dataset!r} takes no --{given[0].replace('_', '-')}: leave it out")
        if config.data_dir is None:
            raise UserError(f"{config.dataset} needs --data-dir, the folder that holds it")
        folder = Path(config.data_dir).expanduser()
        if config.dataset == "cifar10-c":
            return _cifar10_c(folder, config)
        return _imagenet_c(folder, config) if config.dataset == "imagenet-c" else _class_folders(folder, config)
    # the fifth that is held out of a data set without a test split is that of training, whatever --seed is
    if config.split == "all":
        dataset = config.load_data(seed=0)
        splits = [dataset.train, dataset.test]
        if config.skip_unreadable:
            splits = [leave_out_unreadable(split) for split in splits]
        return MeasuredData(dataset, _join(*splits), f"all: train and {dataset.test_name}")
    try:
        dataset = config.load_data(seed=0, measure_only=True)
    except UnknownClassesError:
        names = _names_in_a_model(config)
        if names is None:
            raise
        dataset = config.load_data(seed=0, measure_only=True, trained_names=names)
    split = leave_out_unreadable(dataset.test) if config.skip_unreadable else dataset.test
    return MeasuredData(replace(dataset, test=split), split, dataset.test_name)


def _names_in_a_model(config: EvaluateConfig) -> tuple[str, ...] | None:
    """What the first model that names its classes calls them."""
    opened = (open_model(name) for name in config.models)
    return next((model.label_names for model in opened if model.label_names is not None), None)


def _imagenet_c(folder: Path, config: EvaluateConfig) -> MeasuredData:
    places = find_corruptions(folder, config.corruptions)
    first, names, notes = class_folders(
        places[config.corruptions[0]] / str(config.severities[0]), class_order=config.class_order
    )

    def corrupted(name: str, severity: int) -> Split:
        split, *_ = class_folders(places[name] / str(severity), names)
        if not torch.equal(split.labels, first.labels):
            raise UserError(f"{places[name] / str(severity)} holds other images than its neighbors: fetch it again")
        return split

    for name in config.corruptions:
        for severity in config.severities:
            if not (places[name] / str(severity)).is_dir():
                raise UserError(f"there is no folder {places[name] / str(severity)}: fetch ImageNet-C again")
    about = {"test_name": "validation", "source": _IMAGENET_C, "class_order": config.class_order, "notes": notes}
    dataset = large_dataset("imagenet-c", names, first, first, **about)
    # its images are the 224 pixels of the center crop already
    return MeasuredData(dataset, first, "validation", crop_pct=1.0, corrupted=corrupted)


def _cifar10_c(folder: Path, config: EvaluateConfig) -> MeasuredData:
    # memory-mapped: each file is opened, one severity of it read
    first = [cifar10_c_split(folder, name, config.severities[0]) for name in config.corruptions][-1]
    dataset = small_dataset("cifar10-c", _CIFAR10_CLASSES, first, first, test_name="test", source=_CIFAR10_C)
    if int(first.labels.max()) >= len(_CIFAR10_CLASSES) or int(first.labels.min()) < 0:
        raise UserError(f"{folder / 'labels.npy'} holds labels outside 0 to 9: fetch it again")
    return MeasuredData(
        dataset, dataset.test, "test", corrupted=lambda name, severity: cifar10_c_split(folder, name, severity)
    )


def _class_folders(folder: Path, config: EvaluateConfig) -> MeasuredData:
    found, names, notes = class_folders(folder, class_order=config.class_order)
    split = leave_out_unreadable(found) if config.skip_unreadable else found
    source = _CLASS_FOLDERS[config.dataset] or f"images of the folder {folder.resolve().name}"
    about = {"test_name": "all", "source": source, "class_order": config.class_order, "notes": notes}
    dataset = large_dataset(config.dataset, names, split, split, **about)
    is_small = not isinstance(split, TensorSplit) and max(split.decode(0).size) <= SMALL_SIDE_PX
    return MeasuredData(dataset, split, "all", crop_pct=1.0 if is_small else None)


def _join(first: Split, second: Split) -> Split:
    if isinstance(first, TensorSplit) and isinstance(second, TensorSplit):
        return TensorSplit(torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels]))
    if not isinstance(first, LazySplit) or not isinstance(second, LazySplit):
        raise TypeError(f"cannot join a {type(first).__name__} and a {type(second).__name__}")
    import datasets

    rows = datasets.concatenate_datasets([first.dataset, second.dataset])
    return replace(first, dataset=rows, labels=torch.cat([first.labels, second.labels]))
