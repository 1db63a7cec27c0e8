"""The style of every plot of this package, and how it reaches the disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timm_asap._io import replace_file

__all__ = ["BAD", "DPI", "GOOD", "GREY", "legend_above", "new_figure", "panels", "save_png", "series_style", "styled"]

P = ParamSpec("P")
T = TypeVar("T")

#: Pixels per inch of every PNG: type of 9 points is 12 pixels high.
DPI = 100

# Okabe and Ito's palette, told apart by color-blind readers too (jfly.uni-koeln.de/color); markers and line styles
# repeat what the colors say.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_LINES = ("-", "--", "-.", ":")

GOOD, BAD, GREY = _COLORS[0], _COLORS[1], "#777777"

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def styled(fn: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function in the package's style, whatever the user's own matplotlib settings are."""

    @wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(_STYLE):
            return fn(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, free of pyplot and its global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, columns: int, width: float = 2.6, height: float = 2.1) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels that share their axes, filled row by row.

    Args:
        count: Panels.
        columns: Panels side by side, at most.
        width: Inches of a panel.
        height: Inches of a panel.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    # room for a legend of several names above a single panel
    figure = new_figure(max(4.8, columns * width), rows * height + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[max(0, count - columns) : count]:
        axis.xaxis.set_tick_params(labelbottom=True)  # the lowest of its column, though not in the last row
    return figure, axes[:count]


def series_style(number: int) -> dict[str, Any]:
    """Color, marker and line style of the so-manieth model of a figure, 0 up."""
    return {
        "color": _COLORS[number % len(_COLORS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _LINES[number % len(_LINES)],
    }


def legend_above(figure: Figure, axis: Axes) -> None:
    """The series of one panel, named above all panels.

    Args:
        figure: The figure.
        axis: A panel that holds every series.
    """
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    # a letter of 9-point type is 0.072 inches wide on average, the line before a name half an inch
    inches_each = 0.072 * max(map(len, labels)) + 0.6
    columns = max(1, min(len(handles), int(figure.get_figwidth() / inches_each)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


@styled
def save_png(figure: Figure, path: Path | str) -> Path:
    """Write a figure, in full or not at all.

    Args:
        figure: Drawn by a function of this package.
        path: The PNG; its folder is made if need be.

    Returns:
        The path.
    """
    path = Path(path)
    with replace_file(path) as aside:
        figure.savefig(aside, format="png", metadata={"Software": None})  # the same figure gives the same bytes
    return path
