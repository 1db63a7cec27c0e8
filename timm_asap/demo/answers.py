"""What the page shows for a picture: the function behind the demo, without Gradio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from timm_asap.demo import CLEAN
from timm_asap.demo.models import DemoModel, DemoPair
from timm_asap.demo.pictures import enlarge, read_pixels
from timm_asap.demo.spectra import compare_spectra
from timm_asap.evaluation.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SMALLEST_SIDE, approximation, corrupt
from timm_asap.text import as_text

__all__ = ["CLEAN", "SHOWN_CLASSES", "Answer", "corruption_names", "predict"]

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
    small = min(pair.input_size[1:]) < SMALLEST_SIDE
    return [CLEAN] if small else [CLEAN, *CORRUPTIONS, *EXTRA_CORRUPTIONS]


def predict(pair: DemoPair, picture: str | Path | None, corruption: str = CLEAN, severity: int = 3) -> Answer | None:
    """Prepare a picture, corrupt it, and ask both networks.

    The same picture, corruption and severity always give the same answer.

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
        note = approximation(corruption, pair.table, pair.input_size[1:], pair.input_size[0])
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
