"""Emoji as image folders: the drawings of three vendors to train on, those of the fourth to test on.

npm's packages `emoji-datasource-apple`, `-google`, `-twitter` and `-facebook` hold one sheet of drawings each and a
list of what they show. The drawings belong to their vendors, under different licenses: they are read from the packages
and written to a folder outside the repository. Nothing is fetched here.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from timm_asap.errors import UserError

__all__ = ["VENDORS", "write_folds"]

VENDORS = ("apple", "google", "twitter", "facebook")

_SHEET = 64
"""Side of a drawing in the sheet, which has a border of one pixel around each."""

# Five swatches of skin tones.
_NO_CLASS = "Component"


def write_folds(packages: Path, output: Path, size: int = 32) -> list[Path]:
    """Write a fold for each vendor: `VENDOR/test` holds its drawings, `VENDOR/train` those of the others.

    Args:
        packages: The folder that npm installs into (`node_modules`), or any that holds the packages by name.
        output: Folder of the folds; those that are there are kept.
        size: Side of the images in pixels, 32 or 64. Half the sheet's size is the mean of 2 x 2 pixels.

    Returns:
        The folds, in the order of `VENDORS`.

    Raises:
        UserError: If the size is another one, or a package or its sheet is missing.
    """
    if size not in (_SHEET, _SHEET // 2):
        raise UserError(f"size: expected 32 or 64, got {size}")
    folds = [output / vendor for vendor in VENDORS]
    if all(fold.is_dir() for fold in folds):
        return folds
    drawings = {vendor: _drawings(packages, vendor, size) for vendor in VENDORS}
    output.mkdir(parents=True, exist_ok=True)
    for fold, left_out in zip(folds, VENDORS, strict=True):
        if fold.is_dir():
            continue
        with tempfile.TemporaryDirectory(dir=output) as aside:
            for vendor, images in drawings.items():
                split = Path(aside) / ("test" if vendor == left_out else "train")
                for (category, name), image in images.items():
                    (split / category).mkdir(parents=True, exist_ok=True)
                    image.save(split / category / f"{vendor}_{name}.png")
            shutil.copytree(aside, fold)
    return folds


def _drawings(packages: Path, vendor: str, size: int) -> dict[tuple[str, str], Image.Image]:
    """A vendor's drawings on white, by category and code points; skin tones and the like are left out."""
    folder = packages / f"emoji-datasource-{vendor}"
    sheet = folder / "img" / vendor / "sheets" / f"{_SHEET}.png"
    for path in (folder / "emoji.json", sheet):
        if not path.is_file():
            names = " ".join(f"emoji-datasource-{name}" for name in VENDORS)
            raise UserError(f"--packages {packages}: expected {path.relative_to(packages)}; npm install {names}")
    listed: list[dict[str, Any]] = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    with Image.open(sheet) as image:
        pixels = image.convert("RGBA")
    found = {}
    for emoji in listed:
        if emoji["category"] == _NO_CLASS or not emoji[f"has_img_{vendor}"]:
            continue
        left, top = ((_SHEET + 2) * emoji[f"sheet_{axis}"] + 1 for axis in "xy")
        drawing = pixels.crop((left, top, left + _SHEET, top + _SHEET))
        on_white = Image.new("RGBA", drawing.size, "white")
        on_white.alpha_composite(drawing)
        category = emoji["category"].lower().replace(" & ", "_and_")
        found[category, emoji["unified"].lower()] = on_white.convert("RGB").resize((size, size), Image.Resampling.BOX)
    return found
