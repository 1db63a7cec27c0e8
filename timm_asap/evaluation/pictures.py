"""The plots of an evaluation, drawn once its record stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from timm_asap._io import remove
from timm_asap.evaluation.cells import CleanCell, CorruptionCell
from timm_asap.evaluation.config import EvaluateConfig, as_file_name
from timm_asap.evaluation.corruptions import corrupt
from timm_asap.evaluation.jobs import Job
from timm_asap.evaluation.record import Record
from timm_asap.text import plain_text

if TYPE_CHECKING:
    from timm_asap.evaluation.plots import SheetCell

__all__ = ["draw_joint_plots", "draw_plots"]


def draw_plots(job: Job, record: Record) -> list[Path]:
    """The plots of one model, and a sheet of one image under every corruption.

    Args:
        job: What was measured.
        record: What came out.

    Returns:
        The files, in `plots` beside the record.
    """
    # matplotlib takes a second to import: only who draws pays for it
    from timm_asap.evaluation.plots import draw_contact_sheet, save_plots, save_png

    folder = job.folder / "plots"
    if job.config.overwrite and folder.is_symlink():
        remove(folder)  # what it leads to is not this evaluation's
    files = save_plots([record.content], folder)
    cells = [cell for cell in job.cells if isinstance(cell, CorruptionCell)]
    if cells:
        rows = {
            name: [_sheet_cell(job, cell) for cell in cells if cell.corruption == name]
            for name in dict.fromkeys(cell.corruption for cell in cells)
        }
        columns = [f"severity {severity}" for severity in job.config.severities]
        position = int(job.positions["corruption"][0])
        label = job.data.dataset.label_names[int(job.data.split.labels[position])]
        title = (
            f"{plain_text(record.name)}: its answers to one image of class {plain_text(label, 40)} "
            f"(number {position} of the {plain_text(job.data.split_name, 40)}); blue ✓ right, orange ✗ wrong"
        )
        clean = _sheet_cell(job, CleanCell()) if job.data.corrupted is None else None
        sheet = draw_contact_sheet(list(rows.items()), columns, clean=clean, title=title)
        files.append(save_png(sheet, folder / "contact_sheet.png"))
    return files


def draw_joint_plots(config: EvaluateConfig, records: Sequence[Record]) -> list[Path]:
    """The plots of several models in one figure each.

    Args:
        config: What was measured; without an output folder they go to evaluations/MODEL-MODEL.
        records: Of the models.

    Returns:
        The files.
    """
    from timm_asap.evaluation.plots import save_plots

    names = "-".join(as_file_name(name) for name in config.models)
    folder = Path("evaluations") / names if config.output is None else Path(config.output)
    return save_plots([record.content for record in records], folder / "plots")


@torch.no_grad()
def _sheet_cell(job: Job, cell: CleanCell | CorruptionCell) -> SheetCell:
    from timm_asap.evaluation.plots import SheetCell

    batch = job.first_image(cell)
    pixels = batch.pixels
    if isinstance(cell, CorruptionCell) and cell.split is None:
        pixels = corrupt(pixels, cell.corruption, cell.severity, cell.table, cell.seed, batch.positions)
    answer = int(job.classifier(pixels).argmax())
    return SheetCell(pixels[0], plain_text(job.data.dataset.label_names[answer], 40), answer == int(batch.labels))
