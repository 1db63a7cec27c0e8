"""Says in one line what is wrong with a request to corrupt images, before any work."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_asap.errors import UserError, unknown_name
from timm_asap.evaluation.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, TABLES

SMALLEST_SIDE = 28
"""Height and width that the corruptions need at least, pixels."""

# What undoing a normalisation may add: far below half a level.
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
    check_size(tuple(images.shape[-2:]), table)
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
            "corrupt images before they are normalised"
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
