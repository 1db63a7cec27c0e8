"""Which data a command works with: the same flags for training, evaluation and healing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm_asap.command_line import JsonList
from timm_asap.data.load import load_dataset
from timm_asap.data.splits import ImageDataset


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Fields of every command that reads a data set."""

    dataset: str = "digits"
    """digits, fashion_mnist, idx, imagefolder, parquet, arrow, csv, webdataset, a folder, or an image data set of the
    Hugging Face Hub such as uoft-cs/cifar10."""
    data_dir: str | None = None
    """Folder that holds the files of the data set."""
    image_key: str | None = None
    """Column that holds the images; by default the only one that does."""
    label_key: str | None = None
    """Column that holds the labels; by default the only one that does."""
    train_split: str | None = None
    """Split to train on; by default train."""
    test_split: str | None = None
    """Split to measure on; by default test or validation, or a fifth held out of the training images."""
    num_classes: int | None = None
    """Number of classes, where labels are numbers without names that are not all read: of streams, and of the Hub."""
    label_names: JsonList = None
    """Names of the classes in the order of their numbers, as JSON, where the data have none: '["cat", "dog"]'."""
    class_order: str | None = None
    """Number the classes by their names, natural (class2 before class10, as timm does) or alphabetical (as torchvision
    does); by default as the data set does, folders alphabetically."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, with a warning, instead of stopping."""

    def load_data(self, **more: Any) -> ImageDataset:
        """The data set.

        Args:
            more: Further arguments of `load_dataset`.

        Raises:
            UserError: As `load_dataset` does.
        """
        given = {name: getattr(self, name) for name in DataSource.__dataclass_fields__ if name != "dataset"}
        return load_dataset(self.dataset, **given, **more)
