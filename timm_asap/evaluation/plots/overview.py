"""Plots of a whole evaluation: the summary, images with predictions, and every plot in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from timm_asap.evaluation.plots.aliasing import draw_aliasing, draw_spectra
from timm_asap.evaluation.plots.robustness import (
    Record,
    Result,
    clean_of,
    draw_attacks,
    draw_corruptions,
    draw_shift,
    model_names,
    results_of,
)
from timm_asap.figures import BAD, GOOD, legend_above, new_figure, save_png, series_style, styled

__all__ = ["SheetImage", "draw_contact_sheet", "draw_summary", "save_plots"]


# As Hendrycks and Dietterich (arXiv 1903.12261) group them; those beyond the 15 beside their likes.
_GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}
_ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "apgd-ce": "APGD-CE", "square": "Square", "autoattack": "AutoAttack"}
# From the weakest: of several attacks the strongest is shown.
_STRENGTH = tuple(_ATTACKS)


@styled
def draw_summary(records: Sequence[Record]) -> Figure:
    """A bar per measurement and model: clean, groups of corruptions, the strongest attack by eps, shifts by a pixel.

    Args:
        records: Evaluation records.
    """
    bars = [_bars(record) for record in records]
    names = list(dict.fromkeys(name for one in bars for name in one))
    figure = new_figure(8.0, 0.7 + (0.16 + 0.14 * len(records)) * max(3, len(names)))
    axis = figure.subplots()
    height = 0.8 / len(records)
    for number, (one, model) in enumerate(zip(bars, model_names(records), strict=True)):
        rows = [row + (number - (len(records) - 1) / 2) * height for row, name in enumerate(names) if name in one]
        values = [one[name] for name in names if name in one]
        axis.barh(rows, values, height=0.92 * height, color=series_style(number)["color"], label=model)
        for row, value in zip(rows, values, strict=True):
            axis.annotate(f"{value:.2f}", (value, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, 109)
    axis.set_xticks([0, 20, 40, 60, 80, 100])
    axis.set_xlabel("percent")
    axis.grid(visible=False, axis="y")
    legend_above(figure, axis)
    return figure


def _bars(record: Record) -> dict[str, float]:
    bars = {}
    if clean := clean_of(record):
        bars["clean accuracy"] = clean["accuracy"]
    corrupted = results_of(record, "corruption")
    for group, members in _GROUPS.items():
        found = [result for result in corrupted if result["corruption"] in members]
        if found:
            kinds = len({result["corruption"] for result in found})
            bars[f"{group} ({kinds} {'corruption' if kinds == 1 else 'corruptions'})"] = _mean(found, "accuracy")
    bars |= _attacked(results_of(record, "attack"))
    for result in results_of(record, "shift"):
        if result["pixels"] == 1:
            bars[f"same prediction, {result['kind']} shift by 1 px"] = result["consistency"]
    return bars


def _attacked(results: Sequence[Result]) -> dict[str, float]:
    shown = [r for r in results if not (r["norm"] == "linf" and r["eps"] >= 1)]  # that eps is a check, no measurement
    if not shown:
        return {}
    last = max(shown, key=lambda r: _STRENGTH.index(r["attack"]) if r["attack"] in _STRENGTH else -1)
    same = sorted((r for r in shown if (r["attack"], r["norm"]) == (last["attack"], last["norm"])), key=_eps)
    name = _ATTACKS.get(last["attack"], last["attack"])
    return {f"{name}, eps {_shown(r)}": r["accuracy"] for r in same}


def _eps(result: Result) -> float:
    return result["eps"]


def _shown(result: Result) -> str:
    return f"{255 * result['eps']:.3g}/255" if result["norm"] == "linf" else f"{result['eps']:.3g} (l2)"


def _mean(results: Sequence[Result], value: str) -> float:
    return sum(result[value] for result in results) / len(results)


# Inches: of an image with its frame, of the prediction below it, of the names of rows and columns, of the title.
_CELL, _ANSWER, _ROW_NAME, _COLUMN_NAME, _TITLE = 0.8, 0.2, 0.95, 0.25, 0.35
# Letters of 7-point type that fit below an image.
_LETTERS = 13
# Rows below each other, at most: a sheet of 15 corruptions and the clean image fits a screen in two blocks.
_ROWS = 8


@dataclass(frozen=True)
class SheetImage:
    """One image of the sheet.

    Attributes:
        image: (C, H, W) with 1 or 3 channels, uint8 or pixels in [0, 1].
        answer: The model's answer, as the reader shall see it.
        right: Whether it is the image's class.
    """

    image: torch.Tensor
    answer: str
    right: bool


@styled
def draw_contact_sheet(
    rows: Sequence[tuple[str, Sequence[SheetImage]]],
    columns: Sequence[str],
    clean: SheetImage | None = None,
    title: str = "",
) -> Figure:
    """A row per corruption, a column per severity, the prediction below each image; blocks side by side of many rows.

    Right predictions have a blue frame and a tick, wrong ones an orange frame and a cross.

    Args:
        rows: Name and cells of each row; a row may be shorter than the others.
        columns: Names of the columns.
        clean: The image as it was, in the first place.
        title: Of the sheet: the model, the image's class.
    """
    rows = [("clean", [clean]), *rows] if clean else list(rows)
    blocks = -(-len(rows) // _ROWS)
    height = -(-len(rows) // blocks)
    figure = new_figure(
        blocks * (_ROW_NAME + len(columns) * _CELL),
        height * (_CELL + _ANSWER) + _COLUMN_NAME + (_TITLE if title else 0),
    )
    engine: Any = figure.get_layout_engine()  # the constrained one, of `new_figure`
    engine.set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    divided: Any = figure.subfigures(1, blocks, wspace=0)  # an array, or where there is one the part itself
    parts = np.atleast_1d(divided)
    for number, part in enumerate(parts):
        _draw_block(part, rows[number * height : (number + 1) * height], height, columns)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw_block(
    figure: SubFigure, rows: Sequence[tuple[str, Sequence[SheetImage]]], height: int, columns: Sequence[str]
) -> None:
    grid = figure.subplots(height, len(columns), squeeze=False)
    for axes in grid[len(rows) :]:
        for axis in axes:
            axis.remove()
    for axes, (name, cells) in zip(grid, rows, strict=False):
        for axis in axes[len(cells) :]:
            axis.remove()
        for axis, cell in zip(axes, cells, strict=False):
            _show(axis, cell)
        axes[0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center", labelpad=6)
    # above the first row that has them all: the clean image stands alone in its own
    full = next((number for number, (_, cells) in enumerate(rows) if len(cells) == len(columns)), 0)
    for axis, column, _ in zip(grid[full], columns, rows[full][1], strict=False):
        axis.set_title(column, fontsize=8)


def _show(axis: Axes, cell: SheetImage) -> None:
    image = cell.image.detach().cpu()
    image = image if image.dtype == torch.uint8 else image.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    image = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    axis.imshow(image, interpolation="nearest" if max(image.shape) < 100 else "antialiased")
    color = GOOD if cell.right else BAD
    answer = cell.answer if len(cell.answer) <= _LETTERS else cell.answer[: _LETTERS - 1] + "…"
    axis.set_xlabel(f"{'✓' if cell.right else '✗'} {answer}", color=color, fontsize=7, labelpad=2, parse_math=False)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=1.5 if cell.right else 2)


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
