"""Frost: a picture of ice over the image. The published photographs where they are installed, else drawn crystals.

The photographs ship with the package `imagecorruptions` 1.1.2 (Apache-2.0; `pip install --no-deps imagecorruptions`),
whose code no longer imports. Its files are located, never imported.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from timm_asap.evaluation.corruptions import filters
from timm_asap.evaluation.corruptions.weather import fractal_side, plasma_fractal

Draws = tuple[np.ndarray, ...]
Frost = tuple[float, float, int]

PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The ones that the code draws from; it lists a sixth, frost6.jpg, and never takes it."""


@lru_cache(maxsize=1)
def photographs() -> Path | None:
    """The folder of the photographs, or None where one of them is missing."""
    spec = importlib.util.find_spec("imagecorruptions")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root) / "frost"
        if all((folder / name).is_file() for name in PHOTOGRAPHS):
            return folder
    return None


def frost(x: Tensor, c: Frost, ice: Tensor) -> Tensor:
    """The image and a picture of ice, weighted and added.

    Args:
        x: (B, C, H, W).
        c: The weights of the image and of the ice, and the step at which a photograph is sampled: 1 takes it as it
            is, 5 shrinks it to a fifth.
        ice: (B, 3, H, W), uint8.
    """
    ice = ice.to(x.dtype) / 255
    return c[0] * x + c[1] * (ice if x.shape[1] == 3 else filters.luma(ice))


def draw_photograph(rng: np.random.Generator, image: np.ndarray, c: Frost) -> Draws:
    """A random piece of a random photograph, uint8 (3, H, W)."""
    size = image.shape[-2:]
    photograph, _ = _photograph(photographs(), int(rng.integers(len(PHOTOGRAPHS))), c[2], size)
    top, left = (int(rng.integers(n - side)) for n, side in zip(photograph.shape[1:], size, strict=True))
    return (photograph[:, top : top + size[0], left : left + size[1]],)


def enlarged(size: tuple[int, int], step: int) -> bool:
    """Whether a photograph, sampled at this step, is too small for an image and has to be taken larger."""
    return any(_photograph(photographs(), i, step, size)[1] for i in range(len(PHOTOGRAPHS)))


@lru_cache(maxsize=32)
def _photograph(folder: Path, number: int, step: int, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """A photograph as uint8 (3, h, w) with h > H and w > W, and whether it had to be enlarged for that."""
    with Image.open(folder / PHOTOGRAPHS[number], formats=("JPEG", "PNG")) as file:
        picture = file.convert("RGB")
    width, height = picture.size
    scale = max((size[0] + 1) / round(height / step), (size[1] + 1) / round(width / step))
    if scale > 1:
        larger = (-int(-scale * width // step), -int(-scale * height // step))
        return np.asarray(picture.resize(larger, Image.Resampling.BILINEAR)).transpose(2, 0, 1), True
    # OpenCV shrinks bilinearly and without a low-pass: to a fifth, that takes every fifth pixel from the third on.
    samples = np.asarray(picture)[step // 2 :: step, step // 2 :: step]
    return samples[: round(height / step), : round(width / step)].transpose(2, 0, 1), False


# Of the five photographs, measured: the mean colours of the darkest and the lightest, and the mean over all of a
# colour's standard deviation, in levels.
_DARK, _LIGHT, _DEVIATION = (78, 149, 166), (201, 205, 215), 26


def draw_crystals(rng: np.random.Generator, image: np.ndarray, _: Frost) -> Draws:
    """Uniform numbers for two fractals, in [-1, 1), and for the brightness of the ice, in [0, 1)."""
    side = fractal_side(image.shape[-2:])
    return rng.random((2, side * side - 1), dtype=np.float32) * 2 - 1, np.float32(rng.random())


def drawn_frost(x: Tensor, c: Frost, uniform: Tensor, brightness: Tensor) -> Tensor:
    """Frost where there are no photographs: the ridges of two fractals, with the photographs' colours and contrast.

    Args:
        x: (B, C, H, W).
        c: As for `frost`.
        uniform: (B, 2, n), n the points of a fractal but one.
        brightness: (B,) 0 for the darkest photograph's, 1 for the lightest one's.
    """
    height, width = x.shape[-2:]
    side = fractal_side((height, width))
    ridges = torch.zeros_like(x[:, 0])
    # Together about as much variance in each octave from 1 to 32 pixels as the photographs have.
    for numbers, decay, weight in zip(uniform.unbind(1), (1.15, 1.0), (2, 1), strict=True):
        heights = plasma_fractal(numbers, side, decay)[:, :height, :width]
        ridges -= weight * (2 * heights - 1).abs()
    # In double precision: the order of a sum must not move a pixel.
    mean, deviation = ridges.double().mean((1, 2)), ridges.double().std((1, 2))
    ridges = (ridges - mean.to(x.dtype).view(-1, 1, 1)) / deviation.to(x.dtype).view(-1, 1, 1)
    dark, light = (x.new_tensor(colour).view(1, 3, 1, 1) for colour in (_DARK, _LIGHT))
    base = dark + (light - dark) * brightness.to(x.dtype).view(-1, 1, 1, 1)
    ice = (base + _DEVIATION * ridges[:, None]).clamp(0, 255)
    return frost(x, c, ice)
