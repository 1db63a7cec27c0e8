"""Spatter: drops of water, or splashes of mud, on the lens.

The published code builds water from OpenCV's Canny edges, its 5 x 5 distance transform, box blurs and histogram
equalisation, on 8-bit images; here are those steps, in batches.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timm_asap.evaluation.corruptions import filters

Spatter = tuple[float, float, float, float, float, str]

_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)


def draw_normal(rng: np.random.Generator, image: np.ndarray, _: Spatter) -> tuple[np.ndarray, ...]:
    """Standard normal numbers, one per pixel."""
    return (rng.standard_normal((1, *image.shape[-2:]), dtype=np.float32),)


def spatter(x: Tensor, c: Spatter, normal: Tensor) -> Tensor:
    """Drops or splashes.

    Args:
        x: (B, C, H, W).
        c: Mean and standard deviation of the noise that drops grow from, the sigma in pixels that smooths it, the
            threshold under which there is no drop, for water how much colour it adds and for mud the sigma in pixels
            that softens its edge, and which of the two.
        normal: (B, 1, H, W).
    """
    mean, scale, sigma, threshold, amount, kind = c
    liquid = filters.gaussian(mean + scale * normal, sigma)
    if kind == "mud":
        mask = filters.gaussian((liquid > threshold).to(x.dtype), amount)
        mask = mask.masked_fill(mask < 0.8, 0.0)
        return x * (1 - mask) + filters.tint(_MUD, x.shape[1], x) * mask
    # In whole levels from here on, as the code has them.
    liquid = torch.floor(liquid.masked_fill(liquid < threshold, 0.0) * 255).clamp(0, 255)
    mask = liquid * _relief(liquid)
    largest = mask.amax((2, 3), keepdim=True)
    mask = mask / largest.clamp(min=1.0)  # no drop at all: no water, where the code divides 0 by 0
    return x + amount * mask * filters.tint(_WATER, x.shape[1], x)


def _relief(liquid: Tensor) -> Tensor:
    """How light falls on the drops: from the distance to their edges, (B, 1, H, W) in levels."""
    distance = _distance(_canny(liquid, 50, 150), 20)
    distance = equalise(torch.floor(_box(distance)))
    kernel = distance.new_tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = _correlate(distance, kernel, "reflect").clamp(0, 255)
    return torch.round(_box(lit))


def _correlate(x: Tensor, kernel: Tensor, mode: str) -> Tensor:
    """3 x 3 taps over (B, 1, H, W), tap by tap."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1), mode=mode)
    out = torch.zeros_like(x)
    for i, row in enumerate(kernel.tolist()):
        for j, tap in enumerate(row):
            if tap:
                out.add_(padded[..., i : i + height, j : j + width], alpha=tap)
    return out


def _box(x: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels."""
    return _correlate(x, x.new_ones((3, 3)), "reflect") / 9


def _canny(levels: Tensor, low: float, high: float) -> Tensor:
    """OpenCV's Canny edges of (B, 1, H, W) levels: Sobel gradients, L1 norm, two thresholds. Returns bool."""
    sobel = levels.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    gx, gy = _correlate(levels, sobel, "replicate"), _correlate(levels, sobel.mT, "replicate")
    norm = gx.abs() + gy.abs()
    around = F.pad(norm, (1, 1, 1, 1))
    height, width = levels.shape[-2:]

    def at(down: int, right: int) -> Tensor:
        return around[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    # Thinned along the gradient, in four directions: OpenCV's tangent of 22.5 degrees has 15 bits.
    tangent = 13573 / 2**15
    flat = gy.abs() < gx.abs() * tangent
    steep = gy.abs() > gx.abs() * (tangent + 2)
    ridge_flat = (norm > at(0, -1)) & (norm >= at(0, 1))
    ridge_steep = (norm > at(-1, 0)) & (norm >= at(1, 0))
    falling = (norm > at(-1, -1)) & (norm > at(1, 1))
    rising = (norm > at(-1, 1)) & (norm > at(1, -1))
    ridge_slanted = torch.where((gx < 0) ^ (gy < 0), rising, falling)
    ridge = torch.where(flat, ridge_flat, torch.where(steep, ridge_steep, ridge_slanted))
    weak = ridge & (norm > low)
    strong = weak & (norm > high)
    while True:  # weak edges count where they hang on to a strong one
        grown = weak & (F.max_pool2d(strong.to(levels.dtype), 3, stride=1, padding=1) > 0)
        if torch.equal(grown, strong):
            return strong
        strong = grown


# One step straight, diagonal, and by a knight's move: OpenCV's approximation of the Euclidean distance by 1, 1.4 and
# 2.1969, which it holds in 16 binary places. Their sums, up to 9 times 20, are exact in float32.
_STEPS = {(0, 1): 1.0, (1, 1): round(1.4 * 2**16) / 2**16, (1, 2): round(2.1969 * 2**16) / 2**16}


def _distance(edges: Tensor, limit: int) -> Tensor:
    """Distance of each pixel to the nearest edge pixel in pixels, at most `limit`."""
    height, width = edges.shape[-2:]
    distance = torch.full(edges.shape, float(limit), device=edges.device).masked_fill(edges, 0.0)
    moves = {
        (sy * dy, sx * dx): cost
        for (a, b), cost in _STEPS.items()
        for dy, dx in ((a, b), (b, a))
        for sy in (-1, 1)
        for sx in (-1, 1)
    }
    while True:
        padded = F.pad(distance, (2, 2, 2, 2), value=float(limit))
        shorter = distance
        for (dy, dx), cost in moves.items():
            shorter = torch.minimum(shorter, padded[..., 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] + cost)
        if torch.equal(shorter, distance):
            return distance
        distance = shorter


def equalise(levels: Tensor) -> Tensor:
    """OpenCV's histogram equalisation of (B, 1, H, W) whole levels."""
    flat = levels.flatten(1).long()
    counts = torch.zeros((flat.shape[0], 256), dtype=torch.long, device=levels.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    below = counts.cumsum(1)
    lowest = flat.amin(1, keepdim=True)
    at_lowest = counts.gather(1, lowest)
    rest = flat.shape[1] - at_lowest
    lookup = torch.round((below - at_lowest) * (255 / rest.clamp(min=1).float())).clamp(0, 255)
    lookup = torch.where(rest == 0, lowest.float(), lookup)  # one level only: it stays
    return lookup.gather(1, flat).view_as(levels).to(levels.dtype)
