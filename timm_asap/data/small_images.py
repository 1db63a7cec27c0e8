"""Batches of small images: random changes, drawn for many samples at once and looked up by sample, then normalization.

Reference: Z. Zhong et al., "Random Erasing Data Augmentation" (arXiv:1708.04896), with timm's ranges of area and
ratio and its rule that only rectangles shorter than the image on both sides count.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from timm_asap.data.augment import AugmentConfig
from timm_asap.data.seeds import derive_seed
from timm_asap.errors import UserError

NOISE_LENGTH = 1 << 18
"""Normal numbers that erased rectangles are filled from, each from a random place on: a megabyte, drawn once."""

_AREA = (0.02, 1 / 3)
_LOG_RATIO = (math.log(0.3), math.log(1 / 0.3))
_ATTEMPTS = 10


class Changes(NamedTuple):
    """The random numbers of N samples.

    Attributes:
        moves: int64, (N, 3): rows and columns cut off the padded image, and whether to flip.
        boxes: int64, (N, R, 5): top, left, height, width of each erased rectangle in pixels, height 0 for none, and
            where its noise begins; None if nothing is erased.
    """

    moves: torch.Tensor
    boxes: torch.Tensor | None

    def take(self, rows: torch.Tensor) -> Changes:
        """Those of some samples."""
        return Changes(self.moves[rows], None if self.boxes is None else self.boxes[rows])


def draw_changes(count: int, size: tuple[int, int], augment: AugmentConfig, generator: torch.Generator) -> Changes:
    """Draws for a number of samples.

    Args:
        count: Of samples.
        size: Height and width of the images that are erased from, in pixels.
        augment: The ranges.
        generator: Where the numbers come from.
    """
    moves = draw_shifts_and_flips(count, augment, generator)
    boxes = draw_boxes(count, size, augment, generator) if augment.re_prob > 0 else None
    return Changes(moves, boxes)


def draw_shifts_and_flips(count: int, augment: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """One row of random numbers per sample: rows and columns cut off the padded image, and whether to flip.

    Args:
        count: Number of samples.
        augment: Their ranges.
        generator: Where they come from.

    Returns:
        int64, (count, 3).
    """
    shifts = torch.randint(2 * augment.crop_padding + 1, (count, 2), generator=generator)
    flips = torch.randint(1 + augment.horizontal_flip, (count, 1), generator=generator)
    return torch.cat([shifts, flips], dim=1)


def draw_boxes(count: int, size: tuple[int, int], augment: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """The rectangles to erase, as `Changes.boxes`.

    Args:
        count: Number of samples.
        size: Height and width of the images, in pixels.
        augment: Probability and number of rectangles.
        generator: Where the numbers come from.

    Returns:
        int64, (count, augment.re_count, 5).
    """
    height, width = size
    shape = (count, augment.re_count)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    erased = uniform(count) < augment.re_prob
    boxes_wanted = torch.randint(1, augment.re_count + 1, (count, 1), generator=generator)
    wanted = erased[:, None] & (torch.arange(augment.re_count) < boxes_wanted)
    tall, wide = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    missing = wanted.nonzero(as_tuple=True)
    for _ in range(_ATTEMPTS):
        drawn = uniform(2, len(missing[0]))
        area = (_AREA[0] + (_AREA[1] - _AREA[0]) * drawn[0]) * height * width / boxes_wanted[missing[0], 0]
        ratio = torch.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * drawn[1])
        h, w = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (h < height) & (w < width)
        rows, columns = missing
        tall[rows[fits], columns[fits]] = h[fits]
        wide[rows[fits], columns[fits]] = w[fits]
        missing = rows[~fits], columns[~fits]
    top = (uniform(*shape) * (height - tall + 1)).long()
    left = (uniform(*shape) * (width - wide + 1)).long()
    noise = torch.randint(NOISE_LENGTH, shape, generator=generator)
    return torch.stack([top, left, tall, wide, noise], dim=2)


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


def draw_noise(channels: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """The normal numbers that `erase` fills with: enough for a whole image from any place on.

    Args:
        channels: Of the images.
        size: Their height and width, in pixels.
        generator: Where the numbers come from.

    Returns:
        float32, (NOISE_LENGTH + C * H * W,).
    """
    return torch.randn(NOISE_LENGTH + channels * size[0] * size[1], generator=generator)


def erase(images: torch.Tensor, boxes: torch.Tensor, mode: str, noise: torch.Tensor) -> torch.Tensor:
    """Erases each image's own rectangles, in place.

    Args:
        images: float32, (B, C, H, W), normalized.
        boxes: (B, R, 5), as drawn.
        mode: "const", "rand" or "pixel", as `AugmentConfig.re_mode`.
        noise: As drawn by `draw_noise`.

    Returns:
        `images`.
    """
    _, channels, height, width = images.shape
    for number in range(boxes.shape[1]):
        hit = boxes[:, number, 2].nonzero().squeeze(1)
        top, left, tall, wide, begin = boxes[hit, number].unbind(dim=1)
        rows, columns = torch.arange(height) - top[:, None], torch.arange(width) - left[:, None]
        in_rows = (rows >= 0) & (rows < tall[:, None])
        in_columns = (columns >= 0) & (columns < wide[:, None])
        inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        values = {"const": 0, "rand": channels, "pixel": channels * height * width}[mode]
        filling = torch.zeros(())
        if values:
            filling = noise.unfold(0, values, 1)[begin].view(
                len(hit), channels, *([1, 1], [height, width])[mode == "pixel"]
            )
        images[hit] = torch.where(inside, filling, images[hit])
    return images


class SmallTransform:
    """Changes and normalizes batches of small images.

    Args:
        augment: What happens to them; None for evaluation.
        input_size: (C, H, W) to deliver: gray images are repeated to 3 channels, other sizes interpolated.
        mean: Mean per channel, [0, 1] scale.
        std: Standard deviation per channel.
        seed: Seed of the run.

    Raises:
        UserError: The augmentation is one for large images.
    """

    def __init__(
        self,
        augment: AugmentConfig | None,
        input_size: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
    ) -> None:
        if augment is not None and augment.policy is not None:
            raise UserError(
                f"auto-augment {augment.policy!r} is for images above 64 pixels: leave it out for small ones"
            )
        self.augment = augment
        self.input_size = input_size
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.noise = None
        if augment is not None and augment.re_prob > 0:
            generator = torch.Generator().manual_seed(derive_seed(seed, 5))
            self.noise = draw_noise(input_size[0], input_size[1:], generator)

    def draw(self, count: int, generator: torch.Generator) -> Changes:
        """The random numbers of a number of samples."""
        if self.augment is None:
            raise ValueError("draw: there is no augmentation to draw for")
        return draw_changes(count, self.input_size[1:], self.augment, generator)

    def __call__(self, images: torch.Tensor, changes: Changes | None) -> torch.Tensor:
        """Transforms a batch.

        Args:
            images: uint8, (B, C, H, W).
            changes: A row per image; None for evaluation.

        Returns:
            float32, (B, *input_size).
        """
        augment = self.augment
        if changes is not None and augment is not None:
            images = shift_and_flip(images, changes.moves, augment.crop_padding)
        # the order of torchvision's ToTensor and Normalize: measured through those, logits are the same
        images = images.float().div_(255)
        channels, *size = self.input_size
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        images = images.expand(-1, channels, -1, -1).sub(self.mean).div_(self.std)
        if changes is not None and changes.boxes is not None and augment is not None and self.noise is not None:
            erase(images, changes.boxes, augment.re_mode, self.noise)
        return images
