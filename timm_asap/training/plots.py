"""The learning curves of a run, from its metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from timm_asap.training.figures import new_figure, save_png, series_style, styled

__all__ = ["draw_learning_curves", "learning_curves"]

#: Title and unit of each panel, and the end of the names it shows.
_PANELS = (("loss", "cross-entropy", "loss"), ("accuracy", "percent", "accuracy"), ("learning rate", "", "lr"))

_LABELS = {"pgd": "under PGD"}

# With more epochs than this, markers would hide the lines.
_MARKED_EPOCHS = 30
# A loss that falls by more than this is drawn on a logarithmic scale: its first epochs would hide the rest.
_LINEAR_RANGE = 30


@styled
def draw_learning_curves(records: Sequence[dict[str, Any]]) -> Figure:
    """Every loss, every accuracy and the learning rate, over epochs.

    Args:
        records: Lines of metrics.jsonl, oldest first. Keys that end in `loss`, `accuracy` or `lr` are drawn; a key may
            be missing, or not a number, in some epochs.

    Returns:
        The figure, one panel of each kind.
    """
    figure = new_figure(10.5, 3.2)
    names = sorted({key for record in records for key in record if _numbers(records, key)}, key=_order)
    for axis, (title, unit, ending) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        shown = [name for name in names if name == ending or name.endswith(f"_{ending}")]
        for number, name in enumerate(shown):
            short = name.removesuffix(ending).strip("_")
            _draw(axis, _numbers(records, name), number, _LABELS.get(short, short.replace("_", " ")))
        axis.set_title(f"{title} ({unit})" if unit else title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlim(records[0]["epoch"] - 0.5, records[-1]["epoch"] + 0.5)
        values = [value for name in shown for _, value in _numbers(records, name)]
        if title == "loss" and values and 0 < _LINEAR_RANGE * min(values) < max(values):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        if any(name != ending for name in shown):
            axis.legend(loc="best")
    return figure


def learning_curves(records: Sequence[dict[str, Any]], path: Path | str) -> Path:
    """Draw :func:`draw_learning_curves` into a PNG, in full or not at all.

    Args:
        records: Lines of metrics.jsonl.
        path: The PNG, by custom plots/learning_curves.png in the run folder.

    Returns:
        The path.
    """
    return save_png(draw_learning_curves(records), path)


def _order(name: str) -> tuple[int, str]:
    """Training first, then test, then the rest by name."""
    first = ("train", "test", "val")
    kind = name.split("_")[0]
    return (first.index(kind) if name.count("_") == 1 and kind in first else len(first), name)


def _numbers(records: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) wherever the value is a finite number."""
    values = [(record["epoch"], record.get(key)) for record in records]
    return [(e, v) for e, v in values if isinstance(v, (int, float)) and math.isfinite(v)]


def _draw(axis: Axes, points: list[tuple[float, float]], number: int, label: str) -> None:
    style = series_style(number)
    if len(points) > _MARKED_EPOCHS:
        style["marker"] = ""
    axis.plot(*zip(*points, strict=True), label=label or None, **style)
