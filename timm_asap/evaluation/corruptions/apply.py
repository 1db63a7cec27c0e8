"""Corrupts a batch of images: the request is checked in one line each, the images prepared, each piece corrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from timm_asap.errors import UserError, unknown_name
from timm_asap.evaluation.corruptions import blur, digital, filters, noise, weather
from timm_asap.evaluation.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, TABLES

SMALLEST_SIDE = 28
"""Height and width that the corruptions need at least, pixels."""

# What undoing a normalization may add: far below half a level.
_RANGE_TOLERANCE = 1e-4


def check_request(name: str, severity: int, table: str, seed: int = 0) -> None:
    """Checks all but the images.

    Raises:
        UserError: An unknown name or table, or a severity or seed that is none.
    """
    if name not in CORRUPTIONS + EXTRA_CORRUPTIONS:
        raise UserError(unknown_name("corruption", name, CORRUPTIONS + EXTRA_CORRUPTIONS))
    if table not in TABLES:
        raise UserError(unknown_name("corruption table", table, TABLES))
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise UserError(f"expected a severity from 1 to 5, got {severity!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"expected an integer as the seed of the corruptions, got {seed!r}")


def check_size(size: tuple[int, int], table: str) -> None:
    """Checks that images of this height and width can be corrupted.

    Raises:
        UserError: A side that is too small, or too large for the table.
    """
    largest = TABLES[table].largest_side
    if min(size) < SMALLEST_SIDE:
        raise UserError(f"expected images of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} to corrupt, got {_text(size)}")
    if largest is not None and max(size) > largest:
        raise UserError(
            f"the {table} table of corruptions is for images of up to {largest} x {largest}, got {_text(size)}: "
            "take the imagenet table"
        )


def check_images(images: Tensor, table: str) -> None:
    """Checks the images.

    Raises:
        UserError: Not a (B, C, H, W) tensor of 1 or 3 channels, a wrong size or dtype, or values outside [0, 1].
    """
    if not isinstance(images, Tensor):
        raise UserError(f"expected a tensor of images to corrupt, got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(f"expected images (B, C, H, W) with 1 or 3 channels to corrupt, got {tuple(images.shape)}")
    check_size((images.shape[-2], images.shape[-1]), table)
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise UserError(f"expected uint8 images, or floats in [0, 1], to corrupt, got {images.dtype}")
    if images.numel() == 0:
        return
    least, most = (value.item() for value in images.aminmax())
    # NaN passes through aminmax and fails both comparisons.
    if not (least >= -_RANGE_TOLERANCE and most <= 1 + _RANGE_TOLERANCE):
        raise UserError(
            f"expected float images in [0, 1] to corrupt, got values from {least:.4g} to {most:.4g}: "
            "corrupt images before they are normalized"
        )


def check_indices(indices: Tensor | None, count: int) -> list[int]:
    """The images' numbers as a list.

    Raises:
        UserError: Not one integer >= 0 for each image.
    """
    if indices is None:
        return list(range(count))
    numbers = torch.as_tensor(indices)
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise UserError(f"expected integers as the images' numbers, got {numbers.dtype}")
    if numbers.shape != (count,):
        raise UserError(f"expected {count} numbers, one for each image, got the shape {tuple(numbers.shape)}")
    if count and int(numbers.min()) < 0:
        raise UserError(f"expected the images' numbers to be >= 0, got {int(numbers.min())}")
    return numbers.tolist()


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


class _Corruption(NamedTuple):
    """How a corruption is applied to a batch, and what it draws for each image of it."""

    apply: Callable[..., Tensor]
    """(x, strength, *draws) -> x; x is float32 (B, C, H, W) in [0, 1], the result need not be clipped."""
    draw: Callable[[np.random.Generator, np.ndarray, Any], tuple[np.ndarray | np.float32, ...]] | None = None
    """(generator, uint8 image, strength) -> arrays, which reach `apply` stacked over the batch."""


_CORRUPTIONS = {
    "gaussian_noise": _Corruption(noise.gaussian_noise, noise.draw_normal),
    "shot_noise": _Corruption(noise.shot_noise, noise.draw_counts),
    "impulse_noise": _Corruption(noise.impulse_noise, noise.draw_uniform),
    "defocus_blur": _Corruption(blur.defocus_blur),
    "glass_blur": _Corruption(blur.glass_blur, blur.draw_displacements),
    "motion_blur": _Corruption(blur.motion_blur, blur.draw_angle),
    "zoom_blur": _Corruption(blur.zoom_blur),
    "snow": _Corruption(weather.snow, weather.draw_snow),
    "frost": _Corruption(weather.frost, weather.draw_photograph),
    "fog": _Corruption(weather.fog, weather.draw_fog),
    "brightness": _Corruption(digital.brightness),
    "contrast": _Corruption(digital.contrast),
    "elastic_transform": _Corruption(digital.elastic_transform, digital.draw_elastic),
    "pixelate": _Corruption(digital.pixelate),
    "jpeg_compression": _Corruption(digital.jpeg_compression),
    "speckle_noise": _Corruption(noise.speckle_noise, noise.draw_normal),
    "gaussian_blur": _Corruption(blur.gaussian_blur),
    "spatter": _Corruption(weather.spatter, weather.draw_normal),
    "saturate": _Corruption(digital.saturate),
}

_DRAWN_FROST = _Corruption(weather.drawn_frost, weather.draw_crystals)

# Values worked on at a time: on a CPU what fits its second-level cache, on a GPU a share of its memory.
_PIECE = {"cpu": 2**18}
_LARGE_PIECE = 2**24

# The published code cuts fractions of a level off, in double precision. This much is added first, so that the
# rounding of single precision does not turn a whole level into the one below.
_ROUNDING = 1e-3


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    table: str = "imagenet",
    seed: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Applies one of the common corruptions of Hendrycks & Dietterich (ICLR 2019) to a batch of images.

    An image's result depends on the image, `name`, `severity`, `table`, `seed` and its number alone: not on the batch
    it comes in, the process, or the order. Random numbers are drawn on the CPU: on a GPU the same drops fall in the
    same places, and values may differ by one level where its arithmetic rounds differently.

    Everything happens in levels of 8 bits, as in the benchmark: a float image is rounded to levels first, and the
    result holds whole levels, so float and uint8 images give the same.

    Args:
        images: The images. Float images lie in [0, 1], unnormalized.
        name: One of `CORRUPTIONS` or `EXTRA_CORRUPTIONS`.
        severity: 1 (mild) to 5.
        table: Whose strengths: `"imagenet"`, chosen for 224 x 224, or `"cifar"`, chosen for 32 x 32 and taken for
            images of up to 64 pixels.
        seed: Another seed gives other random numbers.
        indices: The images' numbers in their split, >= 0. Default: 0 to B - 1.

    Shape:
        images: (B, C, H, W), C = 1 or 3, H and W >= 28; uint8, or any float dtype. Any device.
        indices: (B,), integers.
        result: As `images`: shape, dtype, device.

    Raises:
        UserError: An unknown name or table, a severity outside 1 to 5, or images of another shape, dtype or range.

    Reference:
        arXiv 1903.12261; the code hendrycks/robustness. docs/corruptions.md says what is equal and what is not.

    Examples:
        >>> import torch
        >>> images = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
        >>> corrupt(images, "brightness", 1, table="cifar")[0, 0, 0, 0].item()
        140
    """
    check_request(name, severity, table, seed)
    check_images(images, table)
    numbers = check_indices(indices, images.shape[0])
    strength = TABLES[table].parameters[name][severity - 1]
    corruption = _CORRUPTIONS[name]
    if name == "frost" and weather.photographs() is None:
        corruption = _DRAWN_FROST
    levels = images if images.dtype == torch.uint8 else (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    if images.device.type == "mps":
        levels = levels.cpu()  # Apple's GPUs have no double precision
    result = torch.empty_like(levels)
    count = max(1, _PIECE.get(levels.device.type, _LARGE_PIECE) // max(1, images[:1].numel()))
    with torch.no_grad():
        for start in range(0, images.shape[0], count):
            piece = slice(start, start + count)
            generators = (filters.generator(seed, name, severity, number) for number in numbers[piece])
            result[piece] = _corrupt_levels(levels[piece], corruption, strength, generators)
    result = result.to(images.device)
    return result if images.dtype == torch.uint8 else (result.float() / 255).to(images.dtype)


def _corrupt_levels(levels: Tensor, corruption: _Corruption, strength: Any, generators: Any) -> Tensor:
    """One piece of a batch, uint8 to uint8."""
    arrays: list[Tensor] = []
    if corruption.draw is not None:
        images = levels.cpu().numpy()
        drawn = [corruption.draw(rng, image, strength) for rng, image in zip(generators, images, strict=True)]
        arrays = [torch.from_numpy(np.stack(a)).to(levels.device) for a in zip(*drawn, strict=True)]
    x = corruption.apply(levels.float() / 255, strength, *arrays)
    return torch.floor(x.clamp(0, 1) * 255 + _ROUNDING).to(torch.uint8)
