"""Blurs: Gaussian, defocus, glass, motion and zoom."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timm_asap.evaluation.corruptions import filters

Draws = tuple[np.ndarray, ...]

# Kernels up to this side are summed tap by tap; larger ones go through an FFT (in float64, whose rounding is far
# below one level): 21 x 21 taps on 224 x 224 RGB take 9 ms as a convolution, 4 ms as an FFT.
_LARGEST_SUMMED = 9


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Smooths with a Gaussian of `sigma` pixels."""
    return filters.gaussian(x, sigma)


@lru_cache(maxsize=16)
def disk(radius: float, alias_blur: float) -> Tensor:
    """The image of a point out of focus: a disk of `radius` pixels whose edge is softened by `alias_blur` pixels.

    Returns:
        float64 (k, k), k odd, without outer rows that are zero. It sums to 1, but to 1.013 and 1.011 for the radii 8
        and 10: as published, their disks touch the border of the array they are softened in, which is mirrored.
    """
    half = 8 if radius <= 8 else math.ceil(radius)
    axis = torch.arange(-half, half + 1, dtype=torch.float64)
    kernel = (axis.square() + axis[:, None].square() <= radius**2).double()
    reach = 1 if radius <= 8 else 2
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / alias_blur).square())
    taps = (taps / taps.sum()).view(1, 1, -1)
    kernel = F.pad((kernel / kernel.sum())[None, None], (reach,) * 4, mode="reflect")
    kernel = F.conv2d(F.conv2d(kernel, taps[..., None]), taps[..., None, :])[0, 0]
    # What is left of a vanishing tap moves no pixel by a level.
    used = int((kernel.amax(0) > 1e-9).nonzero().flatten().min())
    return kernel[used : kernel.shape[0] - used, used : kernel.shape[0] - used]


def defocus_blur(x: Tensor, c: tuple[float, float]) -> Tensor:
    """Convolves with a disk: radius and softening of its edge, pixels. Edges are mirrored about the outer pixels."""
    kernel = disk(*c)
    side = kernel.shape[0]
    height, width = x.shape[-2:]
    padded = F.pad(x, (side // 2,) * 4, mode="reflect")
    if side > _LARGEST_SUMMED:
        size = [_fft_size(n) for n in padded.shape[-2:]]
        response = torch.fft.rfft2(kernel.to(x.device), s=size)
        out = torch.fft.irfft2(torch.fft.rfft2(padded.double(), s=size) * response, s=size)
        return out[..., side - 1 : side - 1 + height, side - 1 : side - 1 + width].to(x.dtype)
    out = torch.zeros_like(x)
    for i, row in enumerate(kernel.tolist()):
        for j, tap in enumerate(row):
            out.add_(padded[..., i : i + height, j : j + width], alpha=tap)
    return out


def _fft_size(n: int) -> int:
    """The next size that is a multiple of 32: quick to transform."""
    return -(-n // 32) * 32


def draw_displacements(rng: np.random.Generator, image: np.ndarray, c: tuple[float, int, int]) -> Draws:
    """For each round and inner pixel, how far down and right its replacement lies."""
    _, reach, rounds = c
    height, width = image.shape[-2:]
    return (rng.integers(-reach, reach, (rounds, 2, height - 2 * reach, width - 2 * reach), dtype=np.int8),)


def glass_blur(x: Tensor, c: tuple[float, int, int], displacements: Tensor) -> Tensor:
    """Blurs, moves pixels about, and blurs again: sigma in pixels, reach of a move in pixels, rounds.

    In a round the pixels are visited from the last to the first, and each takes the value that its partner has at that
    time. (The published code reads as a swap, but as it assigns views of one array the partner keeps its value.)
    """
    sigma, reach, _ = c
    x = torch.floor(filters.gaussian(x, sigma) * 255 + 1e-3) / 255
    batch, channels, height, width = x.shape
    source = torch.arange(height * width, device=x.device).expand(batch, -1)
    for moves in displacements.long().unbind(1):
        source = source.gather(1, _sources(moves, reach, height, width))
    x = x.flatten(2).gather(2, source[:, None].expand(-1, channels, -1)).view_as(x)
    return filters.gaussian(x, sigma)


def _sources(moves: Tensor, reach: int, height: int, width: int) -> Tensor:
    """Which pixel's old value each pixel has after one round.

    A pixel whose partner was visited before it takes the value that this one had taken, and so on: a chain that ends
    at a partner not yet visited. Following two links for one, until nothing changes, finds all the ends at once.

    Args:
        moves: (B, 2, H - 2 reach, W - 2 reach), down and right.
        reach: Pixels at the edges that take no part; one row and column more at the top left.
        height: H.
        width: W.

    Returns:
        (B, H W) flat positions.
    """
    position = torch.arange(height * width, device=moves.device).view(1, height, width)
    partner = position.repeat(moves.shape[0], 1, 1)
    inner = (slice(None), slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1))
    partner[inner] += moves[:, 0] * width + moves[:, 1]
    visited = torch.zeros_like(position, dtype=torch.bool)
    visited[inner] = True
    partner, position, visited = partner.flatten(1), position.flatten(1), visited.flatten(1)
    goes_on = (partner > position) & visited.expand_as(partner).gather(1, partner)
    link = torch.where(goes_on, partner, position)
    while True:
        further = link.gather(1, link)
        if torch.equal(further, link):
            return partner.gather(1, link)
        link = further


def draw_angle(rng: np.random.Generator, image: np.ndarray, _: tuple[int, float]) -> Draws:
    """A direction in degrees."""
    return (rng.uniform(-45, 45, ()),)


def motion_blur(x: Tensor, c: tuple[int, float], angle: Tensor) -> Tensor:
    """A trail in a random direction: radius and sigma, pixels."""
    return filters.motion_blur(x, *c, angle)


def zoom_blur(x: Tensor, factors: tuple[float, ...]) -> Tensor:
    """The mean of the image and of its enlargements."""
    total = x.clone()
    for factor in factors:
        total += filters.clipped_zoom(x, factor)
    return total / (len(factors) + 1)
