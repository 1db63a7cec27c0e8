"""The elastic transform: a random affine map, then a smooth random displacement of every pixel."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timm_asap.evaluation.corruptions import draws, filters

Fractions = tuple[float, float, float]


def draw_elastic(rng: np.random.Generator, image: np.ndarray, _: Fractions) -> tuple[np.ndarray, ...]:
    """Uniform numbers in [-1, 1): for three points (x, y), and for each pixel (x, y)."""
    return rng.uniform(-1, 1, (3, 2)), draws.uniform(rng, (2, *image.shape[-2:]))


def elastic_transform(x: Tensor, c: Fractions, points: Tensor, field: Tensor) -> Tensor:
    """An affine map, then a displacement.

    Args:
        x: (B, C, H, W).
        c: As fractions of the shorter side: the displacement before smoothing, the standard deviation of its
            smoothing, and how far the three points that fix the affine map move at most.
        points: (B, 3, 2) in [-1, 1).
        field: (B, 2, H, W) in [-1, 1).
    """
    height, width = x.shape[-2:]
    strength, sigma, shift = (fraction * min(height, width) for fraction in c)
    row = torch.arange(height, dtype=torch.float64, device=x.device)[:, None]
    column = torch.arange(width, dtype=torch.float64, device=x.device)
    matrix = _inverse_affine(points.double().cpu() * shift, height, width).to(x.device)
    a, b, c0 = matrix[..., None, None].unbind(2)
    # OpenCV's warp adds in units of 1/1024 of a pixel and rounds the sum to 1/32.
    at = torch.round(a * column * 1024) + torch.round((b * row + c0) * 1024)
    at = torch.floor((at + 16) / 32) / 32
    x = _sample(x, at[:, 0], at[:, 1], edges_repeat=False)
    if strength == 0:
        return x
    moves = _smooth(field.double(), sigma) * strength
    return _sample(x, column + moves[:, 0], row + moves[:, 1], edges_repeat=True)


def _inverse_affine(moves: Tensor, height: int, width: int) -> Tensor:
    """The (B, 2, 3) maps from a pixel of the output to its place in the input, (x, y) both, float64."""
    square = min(height, width) // 3
    centre = torch.tensor([width // 2, height // 2], dtype=torch.float64, device=moves.device)
    corners = centre + square * centre.new_tensor([[1, 1], [1, -1], [-1, -1]])
    # The code keeps the points in single precision.
    moved = (corners + moves).float().double()
    return torch.linalg.solve(F.pad(moved, (0, 1), value=1.0), corners.expand_as(moved)).mT


def _sample(x: Tensor, at_x: Tensor, at_y: Tensor, edges_repeat: bool) -> Tensor:
    """Bilinear samples of (B, C, H, W) at (B, H, W) positions, mirrored.

    Args:
        x: The images.
        at_x: Columns, 0 at the middle of the first pixel.
        at_y: Rows.
        edges_repeat: True mirrors about the outer edges of the outer pixels (SciPy's "reflect"), False about their
            middles (OpenCV's BORDER_REFLECT_101).
    """
    height, width = x.shape[-2:]
    if edges_repeat:
        grid = torch.stack([(2 * at_x + 1) / width - 1, (2 * at_y + 1) / height - 1], -1)
    else:
        grid = torch.stack([2 * at_x / (width - 1) - 1, 2 * at_y / (height - 1) - 1], -1)
    return F.grid_sample(
        x, grid.to(x.dtype), mode="bilinear", padding_mode="reflection", align_corners=not edges_repeat
    )


@lru_cache(maxsize=16)
def _smoothing_matrix(n: int, sigma: float) -> Tensor:
    """(n, n) float64: SciPy's Gaussian filter along one axis, edges mirrored, cut at 3 sigma."""
    taps = filters.gaussian_taps(sigma, truncate=3.0)
    rows = torch.arange(n)
    matrix = torch.zeros((n, n), dtype=torch.float64)
    for i in range(1 - len(taps), len(taps)):
        place = (rows + i) % (2 * n)
        place = torch.minimum(place, 2 * n - 1 - place)
        matrix[rows, place] += taps[abs(i)]
    return matrix


def _smooth(field: Tensor, sigma: float) -> Tensor:
    """(B, 2, H, W) smoothed along both axes. float64, so that the order of the sums moves no pixel."""
    height, width = (_smoothing_matrix(n, sigma).to(field.device) for n in field.shape[-2:])
    return height @ (field @ width.mT)
