"""From an image file, which may come from a stranger, to eight bits per channel: the one place that decodes files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from timm_asap.data.folder_tree import one_line
from timm_asap.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded, whatever a file's name says. Pillow knows some forty formats more, among them EPS, which it hands to
the program Ghostscript. JPEG includes MPO, as cameras write it."""

MAX_PIXELS = 2**27
"""Pixels of the largest image that is decoded: a photograph of 108 megapixels passes, and decoding takes at most 1 GiB.
Known from the file's header, before anything is decoded."""

LONGEST_RATIO = 16
"""Long side over short side, at most, of what is resized by its short side (`cut_ends`)."""

_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_JPEG_EXIF = re.compile(rb"\xff\xe1(..)(Exif\0\0)", re.DOTALL)
# Of TIFF files: description, camera, resolution, software, date, author; blocks of XMP, IPTC, Photoshop, EXIF, GPS.
_DESCRIPTIVE_TAGS = frozenset(
    {270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 700, 33432, 33723, 34377, 34665, 34853}
)

# Of the conversions below, which need several copies of what they convert.
_STRIP_PIXELS = 2**22

# Pillow warns above 89 megapixels, in two lines with a path; `MAX_PIXELS` refuses in one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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


def decode_image(record: Mapping | None, fallback_name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes one image to mode L (gray files) or RGB (all others), upright by its EXIF orientation.

    16-bit gray is scaled to 8 bits. Transparent pixels show white, as a viewer's page does. Of an animation the first
    frame counts. An EXIF orientation that is malformed counts as none.

    Args:
        record: What `datasets.Image(decode=False)` gives: "bytes" (or None) and "path" (or None), or None.
        fallback_name: What to call the image where it has no path.
        max_pixels: Width times height, at most.

    Raises:
        ImageFileError: The file is missing, damaged, too large or in none of `FORMATS`.
    """
    with _reported(record, fallback_name) as source:
        image, orientation = _decode(source, max_pixels)
        return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def image_size(record: Mapping | None, fallback_name: str) -> tuple[int, int]:
    """(W, H) of an image as `decode_image` gives it, from the header of its file: nothing is decoded.

    Args:
        record: As for `decode_image`.
        fallback_name: Likewise.

    Raises:
        ImageFileError: The file is missing, has no header, or is in none of `FORMATS`.
    """
    with _reported(record, fallback_name) as source, Image.open(source, formats=_formats()) as image:
        # of a PNG without an EXIF block before its pixels, Pillow would decode them to look for one behind
        turned = "exif" in image.info and image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
        width, height = image.size
        return (height, width) if turned else (width, height)


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


def cut_ends(image: Image.Image, longest_ratio: float = LONGEST_RATIO) -> Image.Image:
    """The image without what a resize by the short side and a center crop would leave out, if it is very long.

    Resized by its short side to 256 pixels, a line of 1 x 6,000 would have 393 million pixels, and of those the center
    crop keeps 50,000.

    Args:
        image: Of any mode. Up to `longest_ratio` it comes back as it is.
        longest_ratio: Long side over short side, at most, of what comes back.
    """
    width, height = image.size
    longest = int(longest_ratio * min(width, height))
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def _reported(record: Mapping | None, fallback_name: str) -> Iterator[str | io.BytesIO]:
    """The file of a record; whatever goes wrong with it is named by it."""
    if record is None or record["bytes"] is record["path"] is None:
        raise ImageFileError(f"{fallback_name} is empty: remove its row")
    try:
        yield _regular_file(record["path"]) if record["bytes"] is None else io.BytesIO(record["bytes"])
    # Pillow raises about a dozen kinds, depending on the format and on where in the file the damage is
    except Exception as error:
        name = one_line(record["path"] or fallback_name)
        raise ImageFileError(f"cannot read {name}: {_reason(error)}; replace the file or remove it") from error


def _regular_file(path: str) -> str:
    """The path, unless reading it would block or never end."""
    kind = os.stat(path)
    if not stat.S_ISREG(kind.st_mode):
        raise ValueError("it is no regular file")
    if kind.st_size == 0:
        raise ValueError("not an image but an empty file")
    return path


def _decode(source: str | io.BytesIO, max_pixels: int) -> tuple[Image.Image, int]:
    """The pixels as they lie, mode L or RGB, and the EXIF orientation."""
    try:
        return _decode_as_it_is(source, max_pixels)
    except Exception:
        repaired = None
        with contextlib.suppress(Exception):  # the first error is the one to report
            repaired = _without_tags(source)
        if repaired is None:
            raise
    content, exif = repaired
    image, orientation = _decode_as_it_is(io.BytesIO(content), max_pixels)
    return image, orientation if exif is None else _orientation(exif)


def _decode_as_it_is(source: str | io.BytesIO, max_pixels: int) -> tuple[Image.Image, int]:
    with Image.open(source, formats=_formats()) as image:
        if not image.width * image.height:
            raise ValueError("it has no pixels")
        if image.width * image.height > max_pixels:
            raise ValueError(
                f"its {image.width} x {image.height} pixels are more than the {max_pixels:,} that are decoded"
            )
        image.load()  # of PNG, the EXIF data may follow the pixels
        return _to_8_bits(image), _orientation(image)


def _without_tags(source: str | io.BytesIO) -> tuple[bytes, Image.Exif | None] | None:
    """A JPEG or TIFF file without descriptive tags (camera, resolution, EXIF block); None for any other file.

    Pillow gives files up over tags that have nothing to do with their pixels. In TIFF an orientation that is one
    stays; of JPEG the whole block is returned beside.
    """
    with open(source, "rb") if isinstance(source, str) else io.BytesIO(source.getvalue()) as file:
        start = file.read(4)
        if not start.startswith((b"\xff\xd8", b"II*\0", b"MM\0*")):
            return None
        content = start + file.read()
    if start.startswith(b"\xff\xd8"):
        return _hide_exif(content)
    return _clear_tags(bytearray(content), "<" if start.startswith(b"II") else ">"), None


def _hide_exif(jpeg: bytes) -> tuple[bytes, Image.Exif] | None:
    segment = _JPEG_EXIF.search(jpeg)
    if segment is None:
        return None
    exif = Image.Exif()
    with contextlib.suppress(Exception):
        exif.load(jpeg[segment.start(2) : segment.start() + 2 + int.from_bytes(segment[1], "big")])
    return jpeg[: segment.start(2)] + b"hidden" + jpeg[segment.end(2) :], exif


def _clear_tags(tiff: bytearray, endian: str) -> bytes:
    (start,) = struct.unpack_from(f"{endian}I", tiff, 4)
    (count,) = struct.unpack_from(f"{endian}H", tiff, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values, value = struct.unpack_from(f"{endian}HHIH", tiff, entry)
        is_orientation = tag == _ORIENTATION and (kind, values) == (3, 1) and 1 <= value <= 8
        if tag in _DESCRIPTIVE_TAGS and not is_orientation:
            struct.pack_into(f"{endian}HII", tiff, entry + 2, 1, 1, 0)  # one byte, 0
    return bytes(tiff)


def _orientation(of: Image.Image | Image.Exif) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or anything is wrong with it. No other tag is looked at."""
    try:
        value = (of.getexif() if isinstance(of, Image.Image) else of).get(_ORIENTATION)
    except Exception:  # of bytes that anybody may have written: some ten kinds were seen
        return 1
    return value if type(value) is int and value in _TRANSPOSE else 1


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Mode L or RGB of an image of any mode."""
    if image.mode.startswith("I"):
        return _in_strips(image, "L", _scale_16_bits)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range, expected 8 or 16 bits")
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _in_strips(image, mode, lambda strip: _on_white(strip).convert(mode))
    return image.convert(mode)


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts some rows at a time: the copies that it takes on the way stay small."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        return convert(image)
    whole = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(convert(strip), (0, top))
    return whole


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _scale_16_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit gray, which Pillow's own conversion would clip at 255. Older Pillows call it mode I."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels run from {pixels.min()} to {pixels.max()}, expected 0 to 65535")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image that is decoded here ({', '.join(_formats())})"
    return " ".join(str(error).split()) or type(error).__name__
