"""What the demo shows for an image, without Gradio: predictions of both networks, what aliases, example images."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform

from timm_asap.data.images import cut_ends, decode_image, stack_images
from timm_asap.data.load import load_digits
from timm_asap.data.small_images import SmallTransform
from timm_asap.data.splits import SMALL_SIDE_PX, TensorSplit, frame_images
from timm_asap.demo import CLEAN
from timm_asap.demo.models import DemoModel, DemoPair
from timm_asap.errors import UserError
from timm_asap.evaluation.aliasing import LayerAliasing
from timm_asap.evaluation.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SMALLEST_SIDE, approximation, corrupt
from timm_asap.evaluation.plots import draw_spectra
from timm_asap.text import as_text

__all__ = [
    "CLEAN",
    "SHOWN_CLASSES",
    "Answer",
    "compare_spectra",
    "corruption_names",
    "enlarge",
    "predict",
    "read_pixels",
    "write_examples",
]


# Visitors' pictures: about half a GiB while one is decoded.
_MAX_PIXELS = 2**26
# Of what the page shows, pixels at least.
_SHOWN_SIDE = 256


def read_pixels(path: str | Path, pair: DemoPair) -> torch.Tensor:
    """A picture as an evaluation would hand it to the networks.

    Pictures of up to 64 pixels a side are framed by zeros to 32 where they are smaller, then interpolated; larger ones
    are resized and cropped by timm's transform.

    Args:
        path: A picture file of any mode: gray, RGB, palette, transparent (on white), CMYK, 16 bits.
        pair: How its networks take pictures.

    Returns:
        float32 (1, C, H, W) in [0, 1].

    Raises:
        ImageFileError: The file is damaged, too large or no picture.
    """
    path = Path(path)
    # by its bytes: an error names the file, and not the folder that a server keeps it in
    picture = decode_image({"bytes": path.read_bytes(), "path": None}, path.name, _MAX_PIXELS)
    picture = picture.convert("L" if pair.pixels.size[0] == 1 else "RGB")
    width, height = picture.size
    if max(width, height) <= SMALL_SIDE_PX:
        framed = frame_images(stack_images([picture], picture.size, picture.mode))
        return SmallTransform(None, pair.pixels.size, (0.0,), (1.0,), seed=0)(framed, None)
    transform: Any = create_transform(**pair.pixels.without_normalization().data_config(), is_training=False)
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


# A share of the energy; alias-free layers stay far below.
_ROUNDING = 1e-6


def compare_spectra(pair: DemoPair, pixels: torch.Tensor) -> tuple[np.ndarray, str]:
    """Measure and draw what each network's strides sample.

    Args:
        pair: The networks.
        pixels: (B, C, H, W) in [0, 1].

    Returns:
        The figure, uint8 (H, W, 3), and Markdown: where each network aliases most.
    """
    named = {"plain strides": pair.plain, "alias-free": pair.twin}
    measured = {name: model.aliasing(pixels) for name, model in named.items()}
    figure = draw_spectra([_record(name, sites) for name, sites in measured.items()])
    canvas: Any = figure.canvas  # of the kind Agg, which draws into memory
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    lines = [_worst(named[name], name, sites) for name, sites in measured.items()]
    return picture, "\n".join(f"- {line}" for line in lines)


def _record(name: str, sites: list[LayerAliasing]) -> dict[str, Any]:
    """What the figure needs of an evaluation record."""
    return {"model": {"name": name}, "results": [site.record() for site in sites]}


def _worst(model: DemoModel, name: str, sites: list[LayerAliasing]) -> str:
    if not sites:
        return f"**{name}** ({_title(model)}): no downsampling layer"
    worst = max(sites, key=lambda site: site.folded)
    if worst.folded < _ROUNDING:
        return f"**{name}** ({_title(model)}): **less than 0.0001 %** of what is sampled is aliasing, at every layer"
    left = f", which conversion leaves: {worst.reason}" if worst.status == "left" else ""
    where = f"`{worst.site}`{left}" if worst.site else "its only layer"
    percent = f"{100 * worst.folded:.1f} %" if worst.folded >= 1e-3 else f"{100 * worst.folded:.4f} %"
    return f"**{name}** ({_title(model)}): up to **{percent}** of what is sampled is aliasing, at {where}"


def _title(model: DemoModel) -> str:
    return as_text(model.title, "markdown")


SHOWN_CLASSES = 5
"""Of how many classes the page shows the probability."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What the page shows.

    Attributes:
        seen: What both networks see, uint8 (H, W, 3), enlarged.
        twin: Probability of the likeliest classes, by name, of the alias-free network.
        plain: Likewise of the plain one.
        verdict: One line that compares the two.
        spectra: The figure, uint8 (H, W, 3).
        aliasing: Markdown on it.
    """

    seen: np.ndarray
    twin: dict[str, float]
    plain: dict[str, float]
    verdict: str
    spectra: np.ndarray
    aliasing: str


def corruption_names(pair: DemoPair) -> list[str]:
    """What the page offers: nothing first, then the 19 corruptions; none where images are too small for them."""
    small = min(pair.pixels.size[1:]) < SMALLEST_SIDE
    return [CLEAN] if small else [CLEAN, *CORRUPTIONS, *EXTRA_CORRUPTIONS]


def predict(pair: DemoPair, picture: str | Path | None, corruption: str = CLEAN, severity: int = 3) -> Answer | None:
    """Prepare a picture, corrupt it, and ask both networks.

    The same picture, corruption and severity always give the same prediction.

    Args:
        pair: The networks.
        picture: A picture file; None where the page has none.
        corruption: Of `corruption_names`.
        severity: 1 (mild) to 5.

    Returns:
        The answer; None without a picture.

    Raises:
        UserError: A file that is no picture, an unknown corruption or severity.
    """
    if picture is None:
        return None
    pixels = read_pixels(picture, pair)
    note = None
    if corruption != CLEAN:
        pixels = corrupt(pixels, corruption, severity, pair.table)
        note = approximation(corruption, pair.table, pair.pixels.size[1:], pair.pixels.size[0])
    twin, plain = (_likeliest(model, pixels) for model in (pair.twin, pair.plain))
    spectra, aliasing = compare_spectra(pair, pixels)
    verdict = _verdict(twin, plain) + (f" This {corruption.replace('_', ' ')} is approximate: {note}." if note else "")
    return Answer(enlarge(pixels), twin, plain, verdict, spectra, aliasing)


def _likeliest(model: DemoModel, pixels: torch.Tensor) -> dict[str, float]:
    top = model.probabilities(pixels)[0].topk(min(SHOWN_CLASSES, len(model.class_names)))
    return {model.class_names[i]: p for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)}


def _verdict(twin: dict[str, float], plain: dict[str, float]) -> str:
    ours, theirs = next(iter(twin)), next(iter(plain))
    if ours == theirs:
        return f"Both answer **{as_text(ours, 'markdown')}**."
    ours, theirs = as_text(ours, "markdown"), as_text(theirs, "markdown")
    return f"They disagree: alias-free answers **{ours}**, plain strides **{theirs}**."


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
    if max(pair.pixels.size[1:]) > SMALL_SIDE_PX:
        bundled = files("sklearn.datasets.images")
        for name in _PHOTOGRAPHS:
            (folder / name).write_bytes((bundled / name).read_bytes())
        return [folder / name for name in _PHOTOGRAPHS], _CREDITS["photographs"]
    digits = load_digits(seed=0)
    # the held-out fifth of a run with the seed 0: that run's network has not seen them
    if not isinstance(digits.test, TensorSplit):
        raise TypeError(f"expected digits in memory, got a {type(digits.test).__name__}")
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
