"""What a data set is here: two splits, the names of its classes, and how its pixels are normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from timm_asap.data.images import decode_image
from timm_asap.errors import UserError

if TYPE_CHECKING:
    import datasets

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

    def select(self, indices: torch.Tensor) -> TensorSplit:
        """The split of these samples, in this order."""
        return TensorSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class LazySplit:
    """A split of large images, each decoded when it is asked for.

    Args:
        dataset: The table that holds the images; `image_key` must be cast to `datasets.Image(decode=False)`,
            so that a file that cannot be read is reported by its name.
        image_key: Name of the image column.
        label_key: Name of the label column, for the record: `labels` holds its encoded values.
        labels: int64, (N,).
    """

    dataset: datasets.Dataset
    image_key: str
    label_key: str
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image in mode RGB, and its label."""
        return self.decode(index).convert("RGB"), int(self.labels[index])

    def decode(self, index: int) -> Image.Image:
        """The image in mode L if its file is grey, else RGB."""
        record = self.dataset[index][self.image_key]
        return decode_image(record, fallback_name=f"row {index} of column {self.image_key!r}")

    def select(self, indices: torch.Tensor) -> LazySplit:
        """The split of these samples, in this order."""
        rows = self.dataset.select(indices.tolist())
        return LazySplit(rows, self.image_key, self.label_key, self.labels[indices])


Split = TensorSplit | LazySplit


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
        source: What the data are, whose, and under which licence; for the model card.
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

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)


def small_dataset(
    name: str,
    label_names: tuple[str, ...],
    train: TensorSplit,
    test: TensorSplit,
    *,
    test_name: str,
    source: str,
) -> ImageDataset:
    """A data set of small images: framed to `MIN_SIDE_PX` and measured for normalisation."""
    train, test = _frame(train), _frame(test)
    mean, std = channel_statistics(train.images)
    size = tuple(train.images.shape[1:])
    return ImageDataset(name, label_names, train, test, test_name, mean, std, size, source)


def large_dataset(
    name: str, label_names: tuple[str, ...], train: LazySplit, test: LazySplit, *, test_name: str, source: str
) -> ImageDataset:
    """A data set of large images: 224 pixels a side and ImageNet's statistics, as timm's networks expect."""
    mean, std, size = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, (3, 224, 224)
    return ImageDataset(name, label_names, train, test, test_name, mean, std, size, source)


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


def hold_out_fifth(split: Split, seed: int) -> tuple[Split, Split, str]:
    """Splits off a fifth of the samples, with each class in its proportion.

    Args:
        split: What to divide.
        seed: Which fifth.

    Returns:
        The remaining four fifths, the fifth, and its name for `ImageDataset.test_name`.

    Raises:
        UserError: There are too few samples to have every class on both sides.
    """
    # scikit-learn takes two seconds to import: only data sets without a test split need it
    from sklearn.model_selection import train_test_split

    indices = torch.arange(len(split))
    try:
        kept, held_out = train_test_split(
            indices.numpy(), test_size=0.2, random_state=seed, stratify=split.labels.numpy()
        )
    except ValueError as error:
        raise UserError(
            f"no test split, and a fifth of the {len(split)} training samples cannot be held out with "
            f"every class on both sides ({error}): add samples, or a test split"
        ) from error
    kept, held_out = (torch.from_numpy(part).sort().values for part in (kept, held_out))
    return split.select(kept), split.select(held_out), f"held-out fifth, seed {seed}"


def _frame(split: TensorSplit) -> TensorSplit:
    """Centres images smaller than `MIN_SIDE_PX` on zeros."""
    height, width = split.images.shape[-2:]
    spare_h, spare_w = max(0, MIN_SIDE_PX - height), max(0, MIN_SIDE_PX - width)
    if spare_h == spare_w == 0:
        return split
    frame = (spare_w // 2, spare_w - spare_w // 2, spare_h // 2, spare_h - spare_h // 2)
    return TensorSplit(F.pad(split.images, frame), split.labels)
