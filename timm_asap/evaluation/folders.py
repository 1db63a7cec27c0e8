"""Robustness sets that are images on disk: ImageNet-C, CIFAR-10-C, and folders of classes, read as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from timm_asap.data import LazySplit, TensorSplit
from timm_asap.data.class_folders import read_class_folders
from timm_asap.data.columns import in_order
from timm_asap.errors import UserError

__all__ = ["cifar10_c_split", "class_folders", "corruptions_in", "find_corruptions"]


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
        raise UserError(f"{folder} has other classes than its neighbours, such as {other[0]}: fetch it again")
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
    places = {name: next((g / name for g in groups if (g / name / "1").is_dir()), None) for name in names}
    if missing := [name for name, place in places.items() if place is None]:
        raise UserError(f"--data-dir {folder} holds no {missing[0]}: expected {missing[0]}/1 to {missing[0]}/5 in it")
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
