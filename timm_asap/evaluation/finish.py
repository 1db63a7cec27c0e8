"""What an evaluation writes at its end: the record, the predictions for each image, and the plots."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from timm_asap._io import as_json, cut_path, remove, replace_file, sync_file, write_json
from timm_asap._types import present
from timm_asap.adversarial import masking_warnings
from timm_asap.data.splits import counted
from timm_asap.evaluation.config import EvaluateConfig, as_file_name
from timm_asap.evaluation.corruptions import corrupt
from timm_asap.evaluation.jobs import Job
from timm_asap.evaluation.measurements import CleanMeasurement, CorruptionMeasurement, Processes
from timm_asap.evaluation.per_image import Measured, save_per_image
from timm_asap.evaluation.record import (
    PER_IMAGE,
    RECORD,
    Record,
    attack_versions,
    clean_of_attacked,
    compose,
    describe_data,
    describe_model,
    produced_by,
    summarize,
)
from timm_asap.provenance import hardware, hub_id_of, package_versions
from timm_asap.text import plain_text

if TYPE_CHECKING:
    from timm_asap.evaluation.plots import SheetImage

__all__ = ["draw_joint_plots", "draw_plots", "finish", "launcher"]


def finish(job: Job, measured: Measured, processes: Processes, reference: Record | None) -> Record:
    """Write the record of a model, and remove the file that kept its parts.

    Args:
        job: What was measured.
        measured: What came out.
        processes: Who measured it.
        reference: Of mCE.

    Raises:
        UserError: If the disk does not take it; an older record is untouched then, and the parts stay.
    """
    order = {measurement.id: place for place, measurement in enumerate(job.measurements)}
    results = sorted(measured.results, key=lambda result: order.get(result["id"], len(order)))
    measures = {result["measure"] for result in results}
    sample_ids = {name: positions for name, positions in job.positions.items() if name in measures}
    content = compose(
        model=describe_model(job.opened),
        data=describe_data(job.data, hub_id_of(job.data.dataset.name)),
        produced=_produced_by(job, processes),
        results=results,
        summary={
            **summarize(results, masking_warnings(results), reference, job.data.dataset.num_classes),
            "attacked_clean": clean_of_attacked(measured.right, sample_ids),
        },
    )
    path = job.folder / RECORD
    if job.earlier is None:
        # both are whole and on the disk before either replaces an older one
        with replace_file(path) as record, replace_file(job.folder / PER_IMAGE) as per_image:
            record.write_text(as_json(content), encoding="utf-8")
            save_per_image(per_image, measured.right, sample_ids, job.opened.weights_sha256, job.configuration)
            sync_file(record)
            sync_file(per_image)
            path.unlink(missing_ok=True)  # an older record must not stand beside newer predictions
    else:
        write_json(path, content)
    job.partial.unlink(missing_ok=True)
    return Record(path, content)


def launcher(processes: Processes) -> list[str]:
    """The words that start this program again in as many processes."""
    if processes.count == 1:
        return ["timm-asap"]
    if processes.device.type == "cpu":  # of which `accelerate launch` starts only one without MPI
        return ["torchrun", "--nproc-per-node", str(processes.count), "-m", "timm_asap.cli"]
    return ["accelerate", "launch", "--num_processes", str(processes.count), "-m", "timm_asap.cli"]


def _produced_by(job: Job, processes: Processes) -> dict[str, Any]:
    if job.earlier is not None:  # nothing was measured now
        return job.earlier.content["produced_by"]
    config = job.config
    # for others to read: without the folders that only their owner has, and without what to do with an older record
    shown: dict[str, Any] = {
        "models": tuple(cut_path(name) for name in config.models),
        "dataset": cut_path(config.dataset),
    }
    for name in ("data_dir", "output", "reference"):
        value = getattr(config, name)
        shown[name] = None if value is None else cut_path(value)
    words = [*launcher(processes), "evaluate", *config.flags(**shown, resume=False, overwrite=False)]
    return produced_by(
        command=shlex.join(words),
        hardware=hardware(processes.device),
        processes=processes.count,
        batch_size=config.batch_size,
        versions=package_versions() | attack_versions(),
    )


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
    measurements = [measurement for measurement in job.measurements if isinstance(measurement, CorruptionMeasurement)]
    if measurements:
        rows = {
            name: [_sheet_cell(job, measurement) for measurement in measurements if measurement.corruption == name]
            for name in dict.fromkeys(measurement.corruption for measurement in measurements)
        }
        columns = [f"severity {severity}" for severity in job.config.severities]
        position = int(job.positions["corruption"][0])
        label = job.data.dataset.label_names[int(counted(job.data.split).labels[position])]
        title = (
            f"{plain_text(record.name)}: its answers to one image of class {plain_text(label, 40)} "
            f"(number {position} of the {plain_text(job.data.split_name, 40)}); blue ✓ right, orange ✗ wrong"
        )
        clean = _sheet_cell(job, CleanMeasurement()) if job.data.corrupted is None else None
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
def _sheet_cell(job: Job, measurement: CleanMeasurement | CorruptionMeasurement) -> SheetImage:
    from timm_asap.evaluation.plots import SheetImage

    batch = job.first_image(measurement)
    pixels = batch.pixels
    if isinstance(measurement, CorruptionMeasurement) and measurement.split is None:
        pixels = corrupt(
            pixels,
            measurement.corruption,
            measurement.severity,
            measurement.table,
            present(measurement.seed, "seed"),
            batch.positions,
        )
    answer = int(job.classifier(pixels).argmax())
    return SheetImage(pixels[0], plain_text(job.data.dataset.label_names[answer], 40), answer == int(batch.labels))
