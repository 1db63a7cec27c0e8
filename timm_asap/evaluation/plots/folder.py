"""Every picture that evaluation records have the results for, as PNGs in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timm_asap.evaluation.plots.aliasing import draw_aliasing, draw_spectra
from timm_asap.evaluation.plots.attacks import draw_attacks
from timm_asap.evaluation.plots.corruptions import draw_corruptions
from timm_asap.evaluation.plots.records import Record, results_of
from timm_asap.evaluation.plots.shift import draw_shift
from timm_asap.evaluation.plots.summary import draw_summary
from timm_asap.training.figures import save_png

__all__ = ["save_plots"]

#: File name, measure and drawing.
_PLOTS = (
    ("corruptions.png", "corruption", draw_corruptions),
    ("attacks.png", "attack", draw_attacks),
    ("shift.png", "shift", draw_shift),
    ("aliasing.png", "aliasing", draw_aliasing),
    ("spectra.png", "aliasing", draw_spectra),
)


def save_plots(records: Sequence[Record], folder: Path | str) -> list[Path]:
    """Draw what one model, or several, were measured on.

    Args:
        records: Evaluation records as evaluation.json holds them; models that lack a measure are left out of its
            picture, and so is a picture that no model has results for.
        folder: Where the PNGs go; made if need be. Files of the same names are replaced.

    Returns:
        The files written.
    """
    written = []
    for name, measure, draw in _PLOTS:
        measured = [record for record in records if results_of(record, measure)]
        if measured:
            written.append(save_png(draw(measured), Path(folder) / name))
    measured = [record for record in records if results_of(record, "clean")]
    if measured and written:
        written.append(save_png(draw_summary(measured), Path(folder) / "summary.png"))
    return written
