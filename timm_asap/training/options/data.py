"""Which data a run trains on."""

from __future__ import annotations

from dataclasses import dataclass

from timm_asap.command_line import Folder, Name
from timm_asap.errors import UserError
from timm_asap.training.options.flags import JsonList, check_range


@dataclass(frozen=True)
class DataOptions:
    """The images, and which of them are held out."""

    dataset: Name = "digits"
    """digits (ships with scikit-learn), fashion_mnist and idx (IDX files), imagefolder (a folder per class), parquet,
    csv, arrow or webdataset files, or an image data set of the Hugging Face Hub such as uoft-cs/cifar10."""
    data_dir: Folder | None = None
    """Folder that holds the files of the data set."""
    image_key: Name | None = None
    """Column that holds the images; by default the only one that does."""
    label_key: Name | None = None
    """Column that holds the labels; by default the only one that does."""
    train_split: Name | None = None
    """Split to train on; by default train."""
    test_split: Name | None = None
    """Split to test on; by default test or validation, or a fifth held out of the training images."""
    val_share: float = 0.0
    """Share of the training images held out, each class in proportion, to choose the best epoch by: model.safetensors
    is then that epoch's, and the test split is looked at once, at the end. Which images are held out is the same for
    every --seed."""
    streaming: bool = False
    """Read the training images as they come instead of from the disk at random; needs --steps-per-epoch."""
    steps_per_epoch: int | None = None
    """Optimizer steps that count as an epoch; by default a pass over the training images."""
    shuffle_buffer: int = 10_000
    """Images that a stream is shuffled among, per process."""
    num_classes: int | None = None
    """Number of classes, for a stream of numbered labels without class names."""
    label_names: JsonList = None
    """Names of the classes in the order of their numbers, as JSON, where the data have none: '["cat", "dog"]'."""
    skip_corrupt: bool = False
    """Leave out images that cannot be read, with a warning, instead of stopping."""

    def __post_init__(self) -> None:
        check_range(self, "val_share", 0, 1, open_high=True)
        check_range(self, "steps_per_epoch shuffle_buffer num_classes", 1)
        if self.streaming and self.steps_per_epoch is None:
            raise UserError("--streaming needs --steps-per-epoch: the length of a stream is not known")
