"""Images side by side, with what a model answers to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from timm_asap.training.figures import BAD, GOOD, new_figure, styled

__all__ = ["SheetCell", "draw_contact_sheet"]

# Inches: of an image with its frame, of the answer below it, of the names of rows and columns, of the title.
_CELL, _ANSWER, _ROW_NAME, _COLUMN_NAME, _TITLE = 0.8, 0.2, 0.95, 0.25, 0.35
# Letters of 7-point type that fit below an image.
_LETTERS = 13
# Rows below each other, at most: a sheet of 15 corruptions and the clean image fits a screen in two blocks.
_ROWS = 8


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
    """A row per corruption, a column per severity, the answer below each image; blocks side by side of many rows.

    Right answers have a blue frame and a tick, wrong ones an orange frame and a cross.

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
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    parts = np.atleast_1d(figure.subfigures(1, blocks, wspace=0))
    for number, part in enumerate(parts):
        _draw_block(part, rows[number * height : (number + 1) * height], height, columns)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw_block(
    figure: SubFigure, rows: Sequence[tuple[str, Sequence[SheetCell]]], height: int, columns: Sequence[str]
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


def _show(axis: Axes, cell: SheetCell) -> None:
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
