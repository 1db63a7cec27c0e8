"""Which random changes training makes to an image, and the batched ones for small images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from timm_asap.errors import UserError


@dataclass(frozen=True)
class AugmentConfig:
    """The random changes that training images go through. The defaults change nothing in small images."""

    crop_padding: int = 0
    """Small images are shifted by up to this many pixels each way (padded with zeros, then cropped)."""

    horizontal_flip: bool = False
    """Mirror every other image, left to right."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Large images are cropped to a share of their area drawn from this range, then resized."""

    color_jitter: float = 0.4
    """Brightness, contrast and saturation of large images change by up to this share."""

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise UserError(f"crop padding is a number of pixels from 0 up, got {self.crop_padding}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(f"crop scale is two shares of the area, 0 < low <= high <= 1, got {low} {high}")
        if self.color_jitter < 0:
            raise UserError(f"color jitter is a share from 0 up, got {self.color_jitter}")


# The first word found in a data set's name decides. A mirrored digit or letter is no digit or letter.
_BY_WORD = {
    "fashion": AugmentConfig(crop_padding=2, horizontal_flip=True),
    "mnist": AugmentConfig(crop_padding=2),
    "digits": AugmentConfig(crop_padding=2),
    "svhn": AugmentConfig(crop_padding=4),
    "idx": AugmentConfig(crop_padding=2),
}


def default_augment(name: str) -> AugmentConfig:
    """The usual augmentation for a data set: CIFAR's (shift by 4 pixels, flip) unless its name is known."""
    for word, augment in _BY_WORD.items():
        if word in name.lower():
            return augment
    return AugmentConfig(crop_padding=4, horizontal_flip=True)


def draw_shifts_and_flips(count: int, augment: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """One row of random numbers per sample: rows and columns cut off the padded image, and whether to flip.

    Args:
        count: Number of samples in the epoch.
        augment: Their ranges.
        generator: Where they come from.

    Returns:
        int64, (count, 3).
    """
    shifts = torch.randint(2 * augment.crop_padding + 1, (count, 2), generator=generator)
    flips = torch.randint(1 + augment.horizontal_flip, (count, 1), generator=generator)
    return torch.cat([shifts, flips], dim=1)


def shift_and_flip(images: torch.Tensor, drawn: torch.Tensor, padding: int) -> torch.Tensor:
    """Shifts and mirrors each image of a batch by its own row of `draw_shifts_and_flips`.

    One gather over flattened pixels: per image, three times faster than slicing it out and flipping it.

    Args:
        images: (B, C, H, W), any dtype.
        drawn: (B, 3).
        padding: The `crop_padding` that the rows were drawn for, in pixels.

    Returns:
        The same shape and dtype.
    """
    batch, channels, height, width = images.shape
    top, left, flip = drawn.unbind(dim=1)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(flip[:, None].bool(), columns.flip(1), columns)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    padded = F.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.view(batch, 1, -1).expand(-1, channels, -1)).view_as(images)
