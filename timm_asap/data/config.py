"""Which data a command works with, and how the pixels reach the network: each is passed whole, never field by field."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from timm_asap._types import present, pretrained_cfg_of
from timm_asap.command_line import Folder, JsonList, Name, metavar

if TYPE_CHECKING:
    from torch import nn

    from timm_asap.data.splits import ImageDataset

__all__ = ["DataConfig", "PixelConfig"]


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """How images are prepared for a network: five entries of timm's `data_config`, by timm's names."""

    input_size: tuple[int, int, int] | None = None
    """(C, H, W) that the network takes; None: that of the data set."""
    mean: tuple[float, ...] = ()
    """Mean per channel on the [0, 1] scale; empty: that of the data set."""
    std: tuple[float, ...] = ()
    """Standard deviation per channel, likewise."""
    interpolation: str = "bicubic"
    """How large images are resized: "bilinear", "bicubic" or another of timm's names."""
    crop_pct: float = 0.875
    """Fraction of the side of a large test image that the center crop keeps."""

    @classmethod
    def of_model(cls, model: nn.Module) -> PixelConfig:
        """What a model of timm says of itself in its `pretrained_cfg`."""
        own = pretrained_cfg_of(model)
        channels, height, width = own["input_size"]
        return cls(
            input_size=(channels, height, width),
            mean=tuple(own["mean"]),
            std=tuple(own["std"]),
            interpolation=own["interpolation"],
            crop_pct=own["crop_pct"],
        )

    @property
    def size(self) -> tuple[int, int, int]:
        """(C, H, W) that the network takes, once it is settled."""
        return present(self.input_size, "input_size")

    def without_normalization(self) -> PixelConfig:
        """The same images as pixels in [0, 1]."""
        return replace(self, mean=(0.0,), std=(1.0,))

    def data_config(self) -> dict[str, Any]:
        """The entries as timm's `create_transform` and a model's `pretrained_cfg` take them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images, and which of them are used: passed whole from the command line to the loaders."""

    dataset: Name = "digits"
    """digits (ships with scikit-learn), fashion_mnist and idx (IDX files), imagefolder (a folder per class), parquet,
    arrow, csv or webdataset files, a folder, or an image data set of the Hugging Face Hub such as uoft-cs/cifar10."""
    data_dir: Folder | None = None
    """Folder that holds the files of the data set."""
    image_key: Name | None = None
    """Column that holds the images; by default the only one that does."""
    label_key: Name | None = None
    """Column that holds the labels; by default the only one that does."""
    train_split: Name | None = None
    """Split to train on; by default train."""
    test_split: Name | None = None
    """Split to measure on; by default test or validation, or a fifth held out of the training images."""
    num_classes: int | None = None
    """Number of classes, where labels are numbers without names that are not all read: of streams, and of the Hub."""
    label_names: JsonList = None
    """Names of the classes in the order of their numbers, as JSON, where the data have none: '["cat", "dog"]'."""
    class_order: Annotated[str, metavar("natural|alphabetical")] | None = None
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
        from timm_asap.data.load import load_dataset  # torch: not for the help

        given = {name: getattr(self, name) for name in DataConfig.__dataclass_fields__ if name != "dataset"}
        return load_dataset(self.dataset, **given, **more)
