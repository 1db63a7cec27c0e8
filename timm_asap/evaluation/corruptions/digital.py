"""Digital corruptions: brightness, contrast, saturation, pixels, JPEG and an elastic transform.

The elastic transform is a random affine map, then a smooth random displacement of every pixel.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from timm_asap.evaluation.corruptions import filters


def brightness(x: Tensor, amount: float) -> Tensor:
    """Adds to the value of HSV, hue and saturation unchanged.

    With both unchanged the colors are in proportion to the value, so RGB is multiplied by new value / old value.
    """
    value = x.amax(1, keepdim=True)
    brighter = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-6)), brighter)


def contrast(x: Tensor, factor: float) -> Tensor:
    """Moves each channel's values towards their mean over the image."""
    # A sum of whole levels is exact, in whatever order.
    means = (x * 255).round().long().sum((2, 3), keepdim=True) / (255 * x.shape[2] * x.shape[3])
    means = means.to(x.dtype)
    return (x - means) * factor + means


def saturate(x: Tensor, c: tuple[float, float]) -> Tensor:
    """Multiplies the saturation of HSV and adds to it.

    A gray pixel has hue 0: what is added to its saturation makes it red. Of a gray image the luma is returned.
    """
    factor, added = c
    if x.shape[1] == 1:
        # Red stays, green and blue fall: the luma of that.
        return x * (1 - 0.701 * min(max(added, 0), 1))
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    span = value - least
    old = span / value.clamp(min=1e-6)
    new = (old * factor + added).clamp(0, 1)
    # How far below the value each color lies, as a share of the span: for a gray pixel that of pure red.
    red = x.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    depth = torch.where(span > 0, (value - x) / span.clamp(min=1e-6), red)
    return value * (1 - new * depth)


def _by_pillow(x: Tensor, fn: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Applies fn to each image of (B, C, H, W) as 8 bits, on the CPU."""
    levels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    if x.shape[1] == 1:
        levels = levels[..., 0]
    out = np.stack([np.asarray(fn(Image.fromarray(image))) for image in levels])
    out = torch.from_numpy(out).view(x.shape[0], x.shape[2], x.shape[3], x.shape[1])
    return out.to(x.device).permute(0, 3, 1, 2).to(x.dtype) / 255


def pixelate(x: Tensor, factor: float) -> Tensor:
    """Shrinks each side by `factor` and enlarges it again, with Pillow's box filter."""
    height, width = x.shape[-2:]
    small = (int(width * factor), int(height * factor))
    box = Image.Resampling.BOX
    return _by_pillow(x, lambda image: image.resize(small, box).resize((width, height), box))


def jpeg_compression(x: Tensor, quality: int) -> Tensor:
    """To JPEG and back: libjpeg's quality, chroma at half resolution."""

    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file, formats=("JPEG",))

    return _by_pillow(x, compress)


Fractions = tuple[float, float, float]


def draw_elastic(rng: np.random.Generator, image: np.ndarray, _: Fractions) -> tuple[np.ndarray, ...]:
    """Uniform numbers in [-1, 1): for three points (x, y), and for each pixel (x, y)."""
    return rng.uniform(-1, 1, (3, 2)), filters.uniform(rng, (2, *image.shape[-2:]))


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
    center = torch.tensor([width // 2, height // 2], dtype=torch.float64, device=moves.device)
    corners = center + square * center.new_tensor([[1, 1], [1, -1], [-1, -1]])
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
