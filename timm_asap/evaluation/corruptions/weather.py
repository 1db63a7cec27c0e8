"""Weather: snow, fog, frost and spatter.

Frost is a picture of ice over the image: the published photographs where they are installed, else drawn crystals. The
photographs ship with the package `imagecorruptions` 1.1.2 (Apache-2.0; `pip install --no-deps imagecorruptions`), whose
code no longer imports; its files are located, never imported.

Spatter is drops of water, or splashes of mud, on the lens. The published code builds water from OpenCV's Canny edges,
its 5 x 5 distance transform, box blurs and histogram equalization, on 8-bit images; here are those steps, in batches.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
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
    haze = plasma_fractal(uniform, fractal_side((x.shape[-2], x.shape[-1])), decay)
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


# Of the five photographs, measured: the mean colors of the darkest and the lightest, and the mean over all of a
# color's standard deviation, in levels.
_DARK, _LIGHT, _DEVIATION = (78, 149, 166), (201, 205, 215), 26


def draw_crystals(rng: np.random.Generator, image: np.ndarray, _: Frost) -> tuple[np.ndarray, np.float32]:
    """Uniform numbers for two fractals, in [-1, 1), and for the brightness of the ice, in [0, 1)."""
    side = fractal_side(image.shape[-2:])
    return rng.random((2, side * side - 1), dtype=np.float32) * 2 - 1, np.float32(rng.random())


def drawn_frost(x: Tensor, c: Frost, uniform: Tensor, brightness: Tensor) -> Tensor:
    """Frost where there are no photographs: the ridges of two fractals, with the photographs' colors and contrast.

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
    dark, light = (x.new_tensor(color).view(1, 3, 1, 1) for color in (_DARK, _LIGHT))
    base = dark + (light - dark) * brightness.to(x.dtype).view(-1, 1, 1, 1)
    ice = (base + _DEVIATION * ridges[:, None]).clamp(0, 255)
    return frost(x, c, ice)


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
            threshold under which there is no drop, for water how much color it adds and for mud the sigma in pixels
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
    distance = equalize(torch.floor(_box(distance)))
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


def equalize(levels: Tensor) -> Tensor:
    """OpenCV's histogram equalization of (B, 1, H, W) whole levels."""
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
