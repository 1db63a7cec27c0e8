"""The example pictures of the demo, from what scikit-learn bundles, or from a folder."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from timm_asap.data.digits import load_digits
from timm_asap.data.splits import SMALL_SIDE_PX
from timm_asap.demo.models import DemoPair
from timm_asap.errors import UserError

__all__ = ["write_examples"]

_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_CREDITS = {
    "photographs": (
        "Examples: photographs by [danielbuechele](https://www.flickr.com/photos/danielbuechele/6061409035/) and "
        "[vultilion](https://www.flickr.com/photos/vultilion/6056698931/), "
        "[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/), as scikit-learn bundles them."
    ),
    "digits": (
        "Examples: handwritten digits by E. Alpaydin and C. Kaynak "
        "([doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), CC BY 4.0), as scikit-learn bundles them."
    ),
}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MOST = 30


def write_examples(pair: DemoPair, folder: Path, source: str | None = None) -> tuple[list[Path], str]:
    """Put the example pictures into a folder.

    Args:
        pair: Networks for images of up to 64 pixels get the ten digits, others two photographs.
        folder: Exists, and is empty.
        source: A folder of pictures to take instead.

    Returns:
        The files, and Markdown that credits them.

    Raises:
        UserError: The source is no folder, or holds no picture.
    """
    if source is not None:
        found = _pictures_in(source)
        return [Path(shutil.copyfile(path, folder / path.name)) for path in found], ""
    if max(pair.input_size[1:]) > SMALL_SIDE_PX:
        bundled = files("sklearn.datasets.images")
        for name in _PHOTOGRAPHS:
            (folder / name).write_bytes((bundled / name).read_bytes())
        return [folder / name for name in _PHOTOGRAPHS], _CREDITS["photographs"]
    digits = load_digits(seed=0)
    # the held-out fifth of a run with the seed 0: that run's network has not seen them
    labels, images = digits.test.labels.numpy(), digits.test.images[:, 0].numpy()
    paths = []
    for digit in range(digits.num_classes):
        paths.append(folder / f"digit_{digit}.png")
        Image.fromarray(images[int(np.argmax(labels == digit))]).save(paths[-1])
    strangers = set(pair.twin.class_names) != set(digits.label_names)
    note = " These networks were trained on other classes, so expect odd answers." if strangers else ""
    return paths, _CREDITS["digits"] + note


def _pictures_in(source: str) -> list[Path]:
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"--examples {source}: there is no such folder")
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES and path.is_file()]
    if not found:
        raise UserError(f"--examples {source} holds no picture: expected files such as 1.png")
    return found[:_MOST]
