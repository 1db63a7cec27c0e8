"""The images to measure on, by the name of the data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from timm_asap.data import ImageDataset, Split, TensorSplit, leave_out_unreadable
from timm_asap.data.columns import UnknownClassesError
from timm_asap.data.splits import SMALL_SIDE_PX, large_dataset, small_dataset
from timm_asap.errors import UserError
from timm_asap.evaluation.config import EvaluateConfig
from timm_asap.evaluation.folders import cifar10_c_split, class_folders, find_corruptions
from timm_asap.evaluation.models import open_model

__all__ = ["FOLDER_SETS", "MeasuredData", "load_data"]

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
        crop_pct: Share of the side that the centre crop keeps; None leaves it to the model.
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
        return hashlib.sha256(self.split.labels.to(torch.int64).numpy().tobytes()).hexdigest()


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
            raise UserError(f"{places[name] / str(severity)} holds other images than its neighbours: fetch it again")
        return split

    for name in config.corruptions:
        for severity in config.severities:
            if not (places[name] / str(severity)).is_dir():
                raise UserError(f"there is no folder {places[name] / str(severity)}: fetch ImageNet-C again")
    about = {"test_name": "validation", "source": _IMAGENET_C, "class_order": config.class_order, "notes": notes}
    dataset = large_dataset("imagenet-c", names, first, first, **about)
    # its images are the 224 pixels of the centre crop already
    return MeasuredData(dataset, first, "validation", crop_pct=1.0, corrupted=corrupted)


def _cifar10_c(folder: Path, config: EvaluateConfig) -> MeasuredData:
    first = None
    for name in config.corruptions:  # memory-mapped: each file is opened, one severity of it read
        first = cifar10_c_split(folder, name, config.severities[0])
    dataset = small_dataset("cifar10-c", _CIFAR10_CLASSES, first, first, test_name="test", source=_CIFAR10_C)
    if int(first.labels.max()) >= len(_CIFAR10_CLASSES) or int(first.labels.min()) < 0:
        raise UserError(f"{folder / 'labels.npy'} holds labels outside 0 to 9: fetch it again")
    return MeasuredData(
        dataset, dataset.test, "test", corrupted=lambda name, severity: cifar10_c_split(folder, name, severity)
    )


def _class_folders(folder: Path, config: EvaluateConfig) -> MeasuredData:
    split, names, notes = class_folders(folder, class_order=config.class_order)
    if config.skip_unreadable:
        split = leave_out_unreadable(split)
    source = _CLASS_FOLDERS[config.dataset] or f"images of the folder {folder.resolve().name}"
    about = {"test_name": "all", "source": source, "class_order": config.class_order, "notes": notes}
    dataset = large_dataset(config.dataset, names, split, split, **about)
    is_small = max(split.decode(0).size) <= SMALL_SIDE_PX
    return MeasuredData(dataset, split, "all", crop_pct=1.0 if is_small else None)


def _join(first: Split, second: Split) -> Split:
    labels = torch.cat([first.labels, second.labels])
    if isinstance(first, TensorSplit):
        return TensorSplit(torch.cat([first.images, second.images]), labels)
    import datasets

    return replace(first, dataset=datasets.concatenate_datasets([first.dataset, second.dataset]), labels=labels)
