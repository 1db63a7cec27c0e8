"""From a picture file to what both networks take, and back to what a page shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from timm.data import create_transform

from timm_asap.data.images import cut_ends, decode_image, stack_images
from timm_asap.data.small_transform import SmallTransform
from timm_asap.data.splits import SMALL_SIDE_PX, frame_images
from timm_asap.demo.models import DemoPair

__all__ = ["enlarge", "read_pixels"]

# Visitors' pictures: about half a GiB while one is decoded.
_MAX_PIXELS = 2**26
# Of what the page shows, pixels at least.
_SHOWN_SIDE = 256


def read_pixels(path: str | Path, pair: DemoPair) -> torch.Tensor:
    """A picture as an evaluation would hand it to the networks.

    Pictures of up to 64 pixels a side are framed by zeros to 32 where they are smaller, then interpolated; larger ones
    are resized and cropped by timm's transform.

    Args:
        path: A picture file of any mode: grey, RGB, palette, transparent (on white), CMYK, 16 bits.
        pair: How its networks take pictures.

    Returns:
        float32 (1, C, H, W) in [0, 1].

    Raises:
        ImageFileError: The file is damaged, too large or no picture.
    """
    path = Path(path)
    # by its bytes: an error names the file, and not the folder that a server keeps it in
    picture = decode_image({"bytes": path.read_bytes(), "path": None}, path.name, _MAX_PIXELS)
    picture = picture.convert("L" if pair.input_size[0] == 1 else "RGB")
    width, height = picture.size
    if max(width, height) <= SMALL_SIDE_PX:
        framed = frame_images(stack_images([picture], picture.size, picture.mode))
        return SmallTransform(None, pair.input_size, (0.0,), (1.0,), seed=0)(framed, None)
    transform = create_transform(
        pair.input_size,
        is_training=False,
        interpolation=pair.interpolation,
        mean=(0.0,),
        std=(1.0,),
        crop_pct=pair.crop_pct,
    )
    return transform(cut_ends(picture)).unsqueeze(0)


def enlarge(pixels: torch.Tensor) -> np.ndarray:
    """Pixels as a page shows them: small images with every pixel a square.

    Args:
        pixels: (1, C, H, W) in [0, 1].

    Returns:
        uint8 (H', W', 3).
    """
    levels = (pixels[0] * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()
    times = max(1, -(-_SHOWN_SIDE // min(levels.shape[:2])))
    return levels.repeat(times, axis=0).repeat(times, axis=1)
