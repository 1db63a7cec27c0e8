"""The photographs of the test bed: one file per picture, divided by picture into adapt and test.

Debian packages of wallpapers, unpacked or installed anywhere: `gnome-backgrounds plasma-workspace-wallpapers
lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds ukui-wallpapers`. Nothing is fetched here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from timm_asap.errors import UserError

__all__ = ["divide", "find_pictures", "reduce_pictures"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

# One picture comes in several sizes (1920x1080.png, Elephants_3840x2160.jpg), by day and by night (wood-l, wood-d).
_SIZE = re.compile(r"[-_]?\d{3,5}x\d{3,5}$")
_VARIANT = re.compile(r"[-_](?:d|l|dark|light|cold|radioactive|warm)(?=-no-logo$|$)", re.IGNORECASE)

# A reduced copy of a picture in the same folder, not a picture of its own.
_PREVIEW = "screenshot"

_TEST_OF = 3
"""One picture in so many is for testing."""


def find_pictures(folder: Path) -> dict[str, Path]:
    """Every picture under a folder by its name: of several files of one picture, the one with the most pixels.

    Args:
        folder: Holds the unpacked packages, or is `/usr/share`.

    Raises:
        UserError: If there is no picture.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES or path.stem == _PREVIEW or not path.is_file():
            continue
        name = _name_of(path)
        if name not in found or _pixels(path) > _pixels(found[name]):
            found[name] = path
    if not found:
        raise UserError(f"--photographs {folder}: expected image files under this folder, found none")
    return found


def divide(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The pictures to adapt on and those to test on: by the hash of the name, whatever other pictures there are."""
    adapt, test = [], []
    for name in sorted(names):
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        (test if number % _TEST_OF == 0 else adapt).append(name)
    return adapt, test


def reduce_pictures(pictures: dict[str, Path], folder: Path, side: int = 512) -> dict[str, Path]:
    """JPEG copies whose short side is `side` pixels, quality 95; those that are there already are kept.

    Args:
        pictures: By name.
        folder: Where the copies go, in `adapt/` and `test/`.
        side: Shorter side in pixels.
    """
    adapt, _ = divide(pictures)
    copies = {}
    for name, path in pictures.items():
        copy = folder / ("adapt" if name in adapt else "test") / f"{name}.jpg"
        copies[name] = copy
        if copy.is_file():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.draft("RGB", (2 * side, 2 * side))
            image = image.convert("RGB")
        scale = side / min(image.size)
        if scale < 1:
            size = tuple(round(scale * length) for length in image.size)
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        image.save(copy, quality=95)
    return copies


def _name_of(path: Path) -> str:
    stem = path.stem
    if path.parent.name.startswith("images") and path.parent.parent.name == "contents":
        stem = path.parents[2].name  # Plasma: NAME/contents/images/1920x1080.png
    stem = _VARIANT.sub("", _SIZE.sub("", stem))
    return re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")


def _pixels(path: Path) -> int:
    with Image.open(path) as image:
        return image.width * image.height
