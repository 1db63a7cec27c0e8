"""From the bytes of an image file to eight bits per channel, whatever mode the file has."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from timm_asap.errors import UserError

# What Pillow raises, depending on the format and on where in the file the damage is.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageFileError(UserError):
    """An image that cannot be read; the text names its file."""

    def __init__(self, message: str) -> None:
        # A loader's worker process hands an error over as its class and the text of its traceback, whose last
        # line is "module.ImageFileError: message": only the message is for the user.
        last_line = message.strip().rpartition("\n")[2]
        super().__init__(last_line.removeprefix(f"{__name__}.{type(self).__name__}: "))


def in_folder(record: Mapping | None, folder: Path | None) -> Mapping | None:
    """An undecoded image whose relative path leads from a folder.

    Args:
        record: As for `decode_image`.
        folder: Of the file that the path was written in; None where paths are complete.
    """
    if folder is None or record is None or record["bytes"] is not None or record["path"] is None:
        return record
    return {"bytes": None, "path": str(folder / record["path"])}


def decode_image(record: Mapping | None, fallback_name: str) -> Image.Image:
    """Decodes one image to mode L (grey files) or RGB (all others), upright by its EXIF orientation.

    16-bit grey is scaled to 8 bits. Transparent pixels show white, as a viewer's page does.

    Args:
        record: What `datasets.Image(decode=False)` gives: "bytes" (or None) and "path" (or None), or None.
        fallback_name: What to call the image where it has no path.

    Raises:
        ImageFileError: The file is missing, damaged or no image.
    """
    if record is None or record["bytes"] is record["path"] is None:
        raise ImageFileError(f"{fallback_name} is empty: remove its row")
    name = record["path"] or fallback_name
    try:
        content = Path(record["path"]).read_bytes() if record["bytes"] is None else record["bytes"]
        image = Image.open(io.BytesIO(content))
        ImageOps.exif_transpose(image, in_place=True)
        return _to_8_bits(image)
    except _DECODE_ERRORS as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else _one_line(error)
        raise ImageFileError(f"cannot read {name}: {reason}; replace the file or remove it") from error


def stack_images(images: Iterable[Image.Image], size: tuple[int, int], mode: str) -> torch.Tensor:
    """Images as uint8 (N, C, H, W).

    Args:
        images: Of any size.
        size: (W, H) that others are resized to, bicubic.
        mode: "L" or "RGB".
    """
    arrays = []
    for image in images:
        image = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        arrays.append(np.asarray(image.convert(mode)))
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.unsqueeze(1) if mode == "L" else stacked.permute(0, 3, 1, 2).contiguous()


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Mode L or RGB of an image of any mode."""
    if image.mode.startswith("I"):
        return _scale_16_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range, expected 8 or 16 bits")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def _scale_16_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey, which Pillow's own conversion would clip at 255. Older Pillows call it mode I."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels run from {pixels.min()} to {pixels.max()}, expected 0 to 65535")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
