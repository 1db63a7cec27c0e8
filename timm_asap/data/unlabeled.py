"""Images without labels: every image file under a folder, whatever lies around it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from timm_asap.data.images import ImageFileError, decode_image
from timm_asap.data.splits import ImageDataset
from timm_asap.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IMAGE_SUFFIXES", "ImageFiles", "load_images"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

# Photographs are far larger than a network's input, and a run looks at each of them hundreds of times: they are kept
# in memory at this multiple of the input's side, as long as all of them together take no more than so many bytes.
_KEPT_SIDE = 2.5
_KEPT_BYTES = 2**30

_HELD_OUT = 0.2
_MOST_HELD_OUT = 500
"""The images that fidelity is measured on: a fifth, and no more than this."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A split of images without labels, which all count as class 0 where a loader asks for a label.

    Args:
        paths: The files.
        labels: int64 zeros, (N,).
        kept: Reduced images in memory, (H, W, 3) uint8, or None for those that are decoded when they are asked for.
        side: Shorter side in pixels that an image is reduced to.
        skip_unreadable: Always false: files that cannot be read were refused or left out when they were listed.
    """

    paths: tuple[Path, ...]
    labels: torch.Tensor
    kept: tuple[np.ndarray | None, ...]
    side: int
    skip_unreadable: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image in mode RGB, and label 0."""
        return self.decode(index), 0

    def decode(self, index: int) -> Image.Image:
        """The image in mode RGB."""
        kept = self.kept[index]
        return Image.fromarray(kept) if kept is not None else _reduced(_read(self.paths[index]), self.side)

    def select(self, indices: torch.Tensor) -> Self:
        """The split of these samples, in this order; an index may come several times."""
        chosen = indices.tolist()
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            labels=self.labels[indices],
            kept=tuple(self.kept[i] for i in chosen),
        )


def load_images(
    folder: Path | str, side: int, *, held_out: Path | str | None = None, skip_unreadable: bool = False
) -> ImageDataset:
    """Every image file under a folder, as a data set without classes.

    Args:
        folder: Looked through with all that is under it; hidden files are left out.
        side: Of the square that a network takes, in pixels.
        held_out: Folder of the images of the test split; by default a fifth of those of `folder`, 500 at most, which
            depends on their number alone.
        skip_unreadable: Leave out files that cannot be read, with one warning, instead of refusing them.

    Raises:
        UserError: There are fewer than two images, one cannot be read, or one is smaller than `side`.
    """
    folder = Path(folder).expanduser()
    files = _list_images("--images", folder, side, skip_unreadable)
    if held_out is not None:
        train, test = files, _list_images("--held-out", Path(held_out).expanduser(), side, skip_unreadable)
        test_name = f"images of the folder {Path(held_out).expanduser().resolve().name}"
    elif len(files) < 2:
        raise UserError(f"--images {folder}: expected at least 2 images, one of them to measure on; found {len(files)}")
    else:
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
        aside = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT * len(files))))
        train, test = files.select(order[aside:].sort().values), files.select(order[:aside].sort().values)
        test_name = "held-out images"
    return ImageDataset(
        name=folder.resolve().name,
        label_names=("unlabeled",),
        train=train,
        test=test,
        test_name=test_name,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        image_size=(3, side, side),
        source=f"{len(files):,} images without labels of the folder {folder.resolve().name}",
    )


def _list_images(given: str, folder: Path, side: int, skip_unreadable: bool) -> ImageFiles:
    """The images under a folder, each looked at once.

    Args:
        given: The flag that named the folder.
        folder: The folder.
        side: Least length of a side, in pixels.
        skip_unreadable: Leave out files that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{given} {folder}: expected a folder of images, there is none")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise UserError(
            f"{given} {folder}: expected image files ({', '.join(sorted(IMAGE_SUFFIXES))}) under it, found none"
        )
    kept, good, unreadable, small = [], [], [], []
    size, limit = 0, round(_KEPT_SIDE * side)
    for path in paths:
        try:
            image = _read(path)
        except ImageFileError as error:
            if not skip_unreadable:
                raise UserError(f"{given}: {error}, or add --skip-unreadable") from error
            unreadable.append(path)
            continue
        if min(image.size) < side:
            small.append((path, image.size))
            continue
        array = np.asarray(_reduced(image, limit))
        size += array.nbytes
        kept.append(array if size <= _KEPT_BYTES else None)
        good.append(path)
    if small:
        path, (width, height) = small[0]
        raise UserError(
            f"{given} {folder}: expected images of at least {side} x {side} pixels, the network's input; {len(small)} "
            f"of {len(paths)} are smaller, first {path.name} of {width} x {height}: remove them"
        )
    if not good:
        raise UserError(f"{given} {folder}: none of {len(paths)} image files can be read")
    if unreadable:
        warnings.warn(f"{len(unreadable)} of {len(paths)} files cannot be read and are left out", stacklevel=2)
    return ImageFiles(tuple(good), torch.zeros(len(good), dtype=torch.int64), tuple(kept), limit)


def _read(path: Path) -> Image.Image:
    return decode_image({"bytes": None, "path": str(path)}, path.name).convert("RGB")


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """The image, its shorter side brought down to `side` where it is longer."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(side, round(scale * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
