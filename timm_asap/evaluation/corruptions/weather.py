"""Weather: snow and fog. Frost has a module of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from timm_asap.evaluation.corruptions import filters

Draws = tuple[np.ndarray, ...]
Snow = tuple[float, float, float, float, int, float, float]


def draw_snow(rng: np.random.Generator, image: np.ndarray, _: Snow) -> Draws:
    """Standard normal numbers, one per pixel, and the direction of the fall in degrees."""
    return rng.standard_normal((1, *image.shape[-2:]), dtype=np.float32), rng.uniform(-135, -45, ())


def snow(x: Tensor, c: Snow, normal: Tensor, angle: Tensor) -> Tensor:
    """Flakes, and the same turned by 180 degrees, over a whitened image.

    Args:
        x: (B, C, H, W).
        c: Mean and standard deviation of the flakes' noise, its enlargement, the threshold under which there is no
            flake, radius and sigma of their trail in pixels, and how much of the image stays as it was.
        normal: (B, 1, H, W).
        angle: (B,).
    """
    mean, scale, zoom, threshold, radius, sigma, kept = c
    flakes = filters.clipped_zoom(mean + scale * normal, zoom)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    flakes = filters.motion_blur(torch.floor(flakes * 255) / 255, radius, sigma, angle)
    whitened = torch.maximum(x, filters.luma(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * whitened + flakes + flakes.flip(-2, -1)


def draw_fog(rng: np.random.Generator, image: np.ndarray, _: tuple[float, float]) -> Draws:
    """Uniform numbers in [-1, 1), one for each point of the fractal but its first."""
    side = fractal_side(image.shape[-2:])
    return (rng.random(side * side - 1, dtype=np.float32) * 2 - 1,)


def fog(x: Tensor, c: tuple[float, float], uniform: Tensor) -> Tensor:
    """Adds a fractal: its strength, and by how much its detail shrinks from one scale to the next."""
    strength, decay = c
    brightest = x.amax((1, 2, 3), keepdim=True)
    haze = plasma_fractal(uniform, fractal_side(x.shape[-2:]), decay)
    haze = haze[:, None, : x.shape[-2], : x.shape[-1]]
    return (x + strength * haze) * (brightest / (brightest + strength))


def fractal_side(size: tuple[int, int]) -> int:
    """The smallest power of two that covers an image: 256 for 224 x 224, 32 for 32 x 32."""
    return 1 << (max(size) - 1).bit_length()


def plasma_fractal(uniform: Tensor, side: int, decay: float) -> Tensor:
    """Height maps by the diamond-square algorithm on a torus, scaled to [0, 1].

    Args:
        uniform: (B, side^2 - 1) in [-1, 1): for each scale from coarse to fine, the middles of the squares, then the
            middles of their upper edges, then those of their left edges.
        side: A power of two.
        decay: The noise is divided by its square from one scale to the next.

    Returns:
        (B, side, side).
    """
    heights = uniform.new_zeros((uniform.shape[0], side, side))
    step, wibble, used = side, 100.0, 0
    while step >= 2:
        half, count = step // 2, side // step
        noise = (uniform[:, used : used + 3 * count**2] * wibble**2).view(-1, 3, count, count)
        used += 3 * count**2
        corners = heights[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        middles = (pairs + pairs.roll(-1, 2)) / 4 + noise[:, 0]
        heights[:, half::step, half::step] = middles
        upper = (middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)) / 4 + noise[:, 1]
        left = (middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)) / 4 + noise[:, 2]
        heights[:, ::step, half::step] = upper
        heights[:, half::step, ::step] = left
        step, wibble = half, wibble / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)
