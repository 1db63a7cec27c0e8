"""What corruptions are made of: random numbers of an image, Gaussian filters, a zoom, motion blur.

Random numbers depend on the image alone, not on who asks for them, in what order, or how many at a time. Philox is a
counter-based generator: its key selects one of 2^128 streams. Half the key is a hash of (seed, corruption, severity),
the other half the image's number in its split.

Sums over neighbors are written as shifted slices added in a fixed order: the same bits come out whatever the batch
size, where a matrix product or a convolution may sum in another order, and a last bit may move a pixel by one level.

Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def generator(seed: int, name: str, severity: int, index: int) -> np.random.Generator:
    """The stream of one corrupted image.

    Args:
        seed: Any integer.
        name: The corruption.
        severity: 1 to 5.
        index: The image's number in its split, >= 0.
    """
    digest = hashlib.blake2b(f"{seed}/{name}/{severity}".encode(), digest_size=8).digest()
    key = np.array([int.from_bytes(digest, "little"), index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32, uniform in [-1, 1)."""
    return rng.random(shape, dtype=np.float32) * 2 - 1


LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the gray of ITU-R BT.601, which OpenCV and Pillow use."""


def luma(x: Tensor) -> Tensor:
    """The gray version of (B, 3, H, W) or (B, 1, H, W), as (B, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return LUMA[0] * x[:, 0:1] + LUMA[1] * x[:, 1:2] + LUMA[2] * x[:, 2:3]


def tint(color: tuple[float, float, float], channels: int, like: Tensor) -> Tensor:
    """A color as (1, channels, 1, 1): itself for RGB, its luma for gray."""
    values = color if channels == 3 else (sum(w * c for w, c in zip(LUMA, color, strict=True)),)
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def gaussian_taps(sigma: float, truncate: float = 4.0) -> list[float]:
    """Half of SciPy's sampled Gaussian: weights at 0 to int(truncate * sigma + 0.5), the whole summing to 1."""
    radius = int(truncate * sigma + 0.5)
    taps = [math.exp(-0.5 * (i / sigma) ** 2) if i else 1.0 for i in range(radius + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    return [tap / total for tap in taps]


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Each plane of (B, C, H, W) smoothed, edges repeated: `skimage.filters.gaussian` by default.

    Args:
        x: The maps.
        sigma: Standard deviation, pixels.
    """
    taps = gaussian_taps(sigma)
    radius = len(taps) - 1
    if radius == 0:
        return x
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, 0, radius, radius), mode="replicate")
    rows = padded[..., radius : radius + height, :] * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        for start in (radius - i, radius + i):
            rows.add_(padded[..., start : start + height, :], alpha=tap)
    padded = F.pad(rows, (radius, radius, 0, 0), mode="replicate")
    out = padded[..., radius : radius + width] * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        for start in (radius - i, radius + i):
            out.add_(padded[..., start : start + width], alpha=tap)
    return out


@lru_cache(maxsize=64)
def _zoom_taps(size: int, factor: float) -> tuple[list[int], list[float]]:
    """For each output, the first of the two input samples that it lies between, and how far it is from it."""
    crop = math.ceil(size / factor)
    first = (size - crop) // 2
    zoomed = round(crop * factor)
    trim = (zoomed - size) // 2
    # SciPy's zoom puts the first and last samples of input and output on each other.
    step = (crop - 1) / (zoomed - 1)
    positions = [step * (trim + i) for i in range(size)]
    lower = [min(int(position), crop - 2) for position in positions]
    return [first + i for i in lower], [position - i for position, i in zip(positions, lower, strict=True)]


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of (B, C, H, W), enlarged to the same size, bilinearly.

    Args:
        x: The maps.
        factor: >= 1. The middle is ceil(size / factor) samples of each axis.
    """
    for axis in (-2, -1):
        lower, fraction = _zoom_taps(x.shape[axis], factor)
        index = torch.tensor(lower, device=x.device)
        weight = torch.tensor(fraction, dtype=x.dtype, device=x.device)
        if axis == -2:
            weight = weight.view(-1, 1)
        below = x.index_select(axis, index)
        x = below + (x.index_select(axis, index + 1) - below) * weight
    return x


def motion_blur(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """ImageMagick's motion blur of 8-bit images: a one-sided Gaussian trail of whole pixels, edges repeated.

    Args:
        x: (B, C, H, W) in [0, 1], multiples of 1 / 255.
        radius: The trail has 2 radius + 1 samples.
        sigma: Standard deviation of the trail, pixels.
        degrees: (B,) direction, clockwise from the x axis.

    Returns:
        The images in multiples of 1 / 255: ImageMagick rounds to 16 bits, then its PNG writer cuts to 8.
    """
    reach = 2 * radius
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(reach + 1)]
    total = sum(taps)
    size_y, size_x = x.shape[-2:]
    padded = F.pad(x * 65535, (reach,) * 4, mode="replicate")
    out = torch.zeros_like(x)
    for image, source, angle in zip(out, padded, degrees.tolist(), strict=True):
        along_x, along_y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        for i, tap in enumerate(taps):
            top, left = (reach + math.ceil(i * step - 0.5) for step in (along_y, along_x))
            image.add_(source[:, top : top + size_y, left : left + size_x], alpha=tap / total)
    return torch.floor(torch.floor(out + 0.5) / 257) / 255
