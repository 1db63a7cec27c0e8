"""Images side by side, with what a model answers to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from timm_asap.training.figures import BAD, GOOD, new_figure, styled

__all__ = ["SheetCell", "draw_contact_sheet"]

# Inches: of an image with its frame, of the answer below it, of the names of rows and columns.
_CELL, _ANSWER, _ROW_NAME, _COLUMN_NAME = 1.15, 0.24, 1.3, 0.3
# Letters of 7.5-point type that fit below an image.
_LETTERS = 17


@dataclass(frozen=True)
class SheetCell:
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
    rows: Sequence[tuple[str, Sequence[SheetCell]]],
    columns: Sequence[str],
    clean: SheetCell | None = None,
    title: str = "",
) -> Figure:
    """A row per corruption, a column per severity, the answer below each image.

    Right answers have a blue frame and a tick, wrong ones an orange frame and a cross.

    Args:
        rows: Name and cells of each row; a row may be shorter than the others.
        columns: Names of the columns.
        clean: The image as it was: a row of its own above the columns' names.
        title: Of the sheet: the model, the image's class.
    """
    rows = [("clean", [clean]), *rows] if clean else rows
    height = len(rows) * (_CELL + _ANSWER) + _COLUMN_NAME + (0.4 if title else 0)
    figure = new_figure(_ROW_NAME + len(columns) * _CELL, height)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04, wspace=0, hspace=0)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes, (name, cells) in zip(grid, rows, strict=True):
        for axis in axes[len(cells) :]:
            axis.axis("off")
        for axis, cell in zip(axes, cells, strict=False):
            _show(axis, cell)
        axes[0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center", labelpad=6)
    for axis, column in zip(grid[1 if clean else 0], columns, strict=True):
        axis.set_title(column, fontsize=9)
    if title:
        figure.suptitle(title, parse_math=False)  # names of classes are no formulas
    return figure


def _show(axis: Axes, cell: SheetCell) -> None:
    image = cell.image.detach().cpu()
    image = image if image.dtype == torch.uint8 else image.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    image = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    axis.imshow(image, interpolation="nearest" if max(image.shape) < 100 else "antialiased")
    color = GOOD if cell.right else BAD
    answer = cell.answer if len(cell.answer) <= _LETTERS else cell.answer[: _LETTERS - 1] + "…"
    axis.set_xlabel(f"{'✓' if cell.right else '✗'} {answer}", color=color, fontsize=7.5, labelpad=2, parse_math=False)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=2 if cell.right else 2.5)
