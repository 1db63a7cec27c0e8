"""Digital corruptions: brightness, contrast, saturation, pixels, JPEG and an elastic transform."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def brightness(x: Tensor, amount: float) -> Tensor:
    """Adds to the value of HSV, hue and saturation unchanged.

    With both unchanged the colours are in proportion to the value, so RGB is multiplied by new value / old value.
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

    A grey pixel has hue 0: what is added to its saturation makes it red. Of a grey image the luma is returned.
    """
    factor, added = c
    if x.shape[1] == 1:
        # Red stays, green and blue fall: the luma of that.
        return x * (1 - 0.701 * min(max(added, 0), 1))
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    span = value - least
    old = span / value.clamp(min=1e-6)
    new = (old * factor + added).clamp(0, 1)
    # How far below the value each colour lies, as a share of the span: for a grey pixel that of pure red.
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
