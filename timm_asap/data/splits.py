"""Image data sets: two splits, the names of the classes, the normalization, and how unreadable images are treated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from timm_asap._renamed import has_older_keywords
from timm_asap.data.columns import LabelEncoder
from timm_asap.data.images import ImageFileError, decode_image, image_size, in_folder
from timm_asap.errors import UserError

if TYPE_CHECKING:
    import datasets
    from typing_extensions import Self


SMALL_SIDE_PX = 64
"""Images with no side longer than this are decoded once and kept in memory."""

MIN_SIDE_PX = 32
"""Smaller images get a frame of zeros up to this side, the size that low-resolution networks expect."""


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """A split of small images, held in memory.

    Args:
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: torch.Tensor) -> Self:
        """The split of these samples, in this order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


class ImageSplit(Protocol):
    """A split whose images are decoded when they are asked for: a `LazySplit`, or files without labels."""

    @property
    def labels(self) -> torch.Tensor:
        """int64, (N,)."""
        ...

    @property
    def skip_unreadable(self) -> bool:
        """Whether samples that cannot be read are replaced instead of reported."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...

    def decode(self, index: int) -> Image.Image:
        """The image of a sample."""
        ...

    def select(self, indices: torch.Tensor) -> Self:
        """The split of these samples, in this order."""
        ...


@has_older_keywords
@dataclass(frozen=True, eq=False)
class LazySplit:
    """A split of large images, each decoded when it is asked for.

    Args:
        dataset: The table that holds the images; `image_key` must be cast to `datasets.Image(decode=False)`,
            so that a file that cannot be read is reported by its name.
        image_key: Name of the image column.
        label_key: Name of the label column, for the record: `labels` holds its encoded values.
        labels: int64, (N,).
        skip_unreadable: Whether samples that cannot be read are replaced instead of reported.
        folder: Where relative paths of images lead from.
    """

    dataset: datasets.Dataset
    image_key: str
    label_key: str
    labels: torch.Tensor
    skip_unreadable: bool = False
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image in mode RGB, and its label."""
        return self.decode(index).convert("RGB"), int(self.labels[index])

    def decode(self, index: int) -> Image.Image:
        """The image in mode L if its file is gray, else RGB."""
        record = in_folder(self.dataset[index][self.image_key], self.folder)
        return decode_image(record, fallback_name=f"row {index} of column {self.image_key!r}")

    def size(self, index: int) -> tuple[int, int]:
        """(W, H) of the image by its file's header: nothing is decoded."""
        record = in_folder(self.dataset[index][self.image_key], self.folder)
        return image_size(record, fallback_name=f"row {index} of column {self.image_key!r}")

    def select(self, indices: torch.Tensor) -> Self:
        """The split of these samples, in this order."""
        rows = self.dataset.select(indices.tolist())
        return replace(self, dataset=rows, labels=self.labels[indices])


@has_older_keywords
@dataclass(frozen=True, eq=False)
class StreamSplit:
    """A split that is read from its beginning on, of large or small images.

    Args:
        dataset: The stream; `image_key` must be cast to `datasets.Image(decode=False)`.
        image_key: Name of the image column.
        label_key: Name of the label column, or "column.field".
        encoder: From its values to class numbers.
        len_or_none: Number of samples, if it is known.
        small: (C, H, W) that small images are brought to, of 1 or 3 channels; None for large images.
        source: What to call the stream in an error.
        shuffle_buffer: Most samples that a training process holds to draw from.
        skip_unreadable: Whether samples that cannot be read are replaced instead of reported.
        folder: Where relative paths of images lead from.
    """

    dataset: datasets.IterableDataset
    image_key: str
    label_key: str
    encoder: LabelEncoder
    len_or_none: int | None
    small: tuple[int, int, int] | None
    source: str
    shuffle_buffer: int = 10_000
    skip_unreadable: bool = False
    folder: Path | None = None

    def decode(self, record: Mapping, fallback_name: str) -> Image.Image:
        """The image of an undecoded record: mode L where all are gray, else RGB, and small ones at their size."""
        image = decode_image(in_folder(record, self.folder), fallback_name)
        if self.small is None:
            return image.convert("RGB")
        size = (self.small[2], self.small[1])
        image = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        return image.convert("L" if self.small[0] == 1 else "RGB")


Split = TensorSplit | ImageSplit | StreamSplit


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A data set ready to train on.

    Args:
        name: The name it was asked for by.
        label_names: One name per class, in the order of the labels.
        train: The split to train on.
        test: The split to measure on; never trained on.
        test_name: Which samples `test` holds: "test", "validation", "held-out fifth, seed 0".
        mean: Mean per channel of `train` on the [0, 1] scale; ImageNet's for large images.
        std: Standard deviation per channel, likewise.
        image_size: (C, H, W) as the network should take it.
        source: What the data are, whose, and under which license; for the model card.
        val: The split to choose by (the best epoch, when to stop), so that `test` is not; None without one.
        val_name: Which samples `val` holds: "validation", "held-out 20 % of train, seed 0".
        frame: Pixels of zeros that were put around the images of `train`: left, top, right and bottom.
        class_order: In which order the classes are numbered, where that was asked for; see `load_dataset`.
        notes: Where the splits were found, and what was not read; a line each.
    """

    name: str
    label_names: tuple[str, ...]
    train: Split
    test: Split
    test_name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int, int]
    source: str
    val: Split | None = None
    val_name: str | None = None
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)
    class_order: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    def class_counts(self, split: Split) -> dict[str, int] | None:
        """Samples per class, by its name; None for a stream, which would have to be read for it."""
        if isinstance(split, StreamSplit):
            return None
        counts = torch.bincount(split.labels, minlength=self.num_classes).tolist()
        return dict(zip(self.label_names, counts, strict=True))


def small_dataset(
    name: str,
    label_names: tuple[str, ...],
    train: TensorSplit,
    test: TensorSplit,
    val: TensorSplit | None = None,
    **about: Any,
) -> ImageDataset:
    """A data set of small images: framed to `MIN_SIDE_PX` and measured for normalization.

    Args:
        name: As in `ImageDataset`, like the others.
        label_names: Likewise.
        train: Likewise.
        test: Likewise.
        val: Likewise.
        **about: `test_name`, `source`, `val_name`, `class_order` and `notes`.
    """
    frame = frame_of(*train.images.shape[-2:])
    train, test = _frame(train), _frame(test)
    val = None if val is None else _frame(val)
    mean, std = channel_statistics(train.images)
    _, channels, height, width = train.images.shape
    size = (channels, height, width)
    return ImageDataset(
        name, label_names, train, test, mean=mean, std=std, image_size=size, val=val, frame=frame, **about
    )


def large_dataset(
    name: str, label_names: tuple[str, ...], train: Split, test: Split, val: Split | None = None, **about: Any
) -> ImageDataset:
    """A data set of large images: 224 pixels a side and ImageNet's statistics, as timm's networks expect.

    Args:
        name: As in `ImageDataset`, like the others.
        label_names: Likewise.
        train: Likewise.
        test: Likewise.
        val: Likewise.
        **about: `test_name`, `source`, `val_name`, `class_order` and `notes`.
    """
    normalize = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return ImageDataset(name, label_names, train, test, image_size=(3, 224, 224), val=val, **normalize, **about)


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel on the [0, 1] scale, rounded to 4 digits.

    Computed in float64 from the histogram of the 256 levels: exact, and without a float copy of the images.
    A constant channel has standard deviation 1 here, so that dividing by it is harmless.

    Args:
        images: uint8, (N, C, H, W).
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(dim=1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        std = (share * (levels - mean).square()).sum().sqrt()
        means.append(round(mean.item(), 4))
        stds.append(round(std.item(), 4) or 1.0)
    return tuple(means), tuple(stds)


def _frame(split: TensorSplit) -> TensorSplit:
    """Centers images smaller than `MIN_SIDE_PX` on zeros."""
    return TensorSplit(frame_images(split.images), split.labels)


def frame_images(images: torch.Tensor) -> torch.Tensor:
    """Centers (B, C, H, W) smaller than `MIN_SIDE_PX` on zeros."""
    left, top, right, bottom = frame = frame_of(*images.shape[-2:])
    return F.pad(images, (left, right, top, bottom)) if any(frame) else images


def frame_of(height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels that bring an image to `MIN_SIDE_PX`: left, top, right and bottom, as Pillow's `ImageOps.expand` counts.

    Args:
        height: Of the image.
        width: Of the image.
    """
    spare_h, spare_w = max(0, MIN_SIDE_PX - height), max(0, MIN_SIDE_PX - width)
    return spare_w // 2, spare_h // 2, spare_w - spare_w // 2, spare_h - spare_h // 2


def counted(split: Split) -> TensorSplit | ImageSplit:
    """A split whose samples can be counted and chosen from.

    Raises:
        UserError: It is read as a stream.
    """
    if isinstance(split, StreamSplit):
        raise UserError(f"{split.source} is read as a stream: expected a data set whose images can be counted")
    return split


PADDING_LABEL = -1
"""Label of samples that are not to be counted: they fill up a batch, or stand for images that cannot be read."""


class UnreadableImages:
    """Counts images that cannot be read.

    The count lies in shared memory: that of the worker processes is seen in the training process. Each fetch of such
    an image counts.

    Args:
        skip: Whether to go on; otherwise the first one is an error.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self._count = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def count(self) -> int:
        """How many came so far; two processes that count at the same instant may count one."""
        return int(self._count)

    def note(self, error: ImageFileError) -> None:
        """Counts one, with a warning if it is the first.

        Raises:
            ImageFileError: Skipping was not asked for.
        """
        if not self.skip:
            raise error
        self._count += 1
        if self.count == 1:
            warnings.warn(f"skipping images that cannot be read; the first: {error}", stacklevel=2)


@overload
def leave_out_unreadable(split: TensorSplit | ImageSplit) -> TensorSplit | ImageSplit: ...


@overload
def leave_out_unreadable(split: Split) -> Split: ...


def leave_out_unreadable(split: Split) -> Split:
    """The split without images that cannot be read, with one warning: for measuring, where none may stand in.

    Every large image is decoded once; small ones were, when they were loaded.

    Args:
        split: Not a stream.

    Raises:
        UserError: None of them can be read.
    """
    if not isinstance(split, LazySplit):
        return split
    with ThreadPoolExecutor() as threads:
        errors = list(threads.map(lambda index: _error_of(split, index), range(len(split))))
    found = [error for error in errors if error is not None]
    if not found:
        return split
    if len(found) == len(split):
        raise UserError(f"none of {len(split)} images can be read; the first: {found[0]}")
    warnings.warn(f"left out {len(found)} of {len(split)} images; the first: {found[0]}", stacklevel=2)
    return split.select(torch.tensor([index for index, error in enumerate(errors) if error is None]))


def _error_of(split: LazySplit, index: int) -> ImageFileError | None:
    try:
        split.decode(index)
    except ImageFileError as error:
        return error
    return None
