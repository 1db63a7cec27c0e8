"""One model's evaluation, put together and tried out before anything is measured or written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from timm_asap._lock import refuse_if_locked_by_another_launch
from timm_asap._types import present
from timm_asap.adversarial import PixelModel
from timm_asap.data import Split
from timm_asap.data.labels import choose_classes, match_labels
from timm_asap.data.splits import counted
from timm_asap.errors import UserError, first_line
from timm_asap.evaluation.config import EvaluateConfig
from timm_asap.evaluation.measurements import CleanMeasurement, CorruptionMeasurement, Measurement
from timm_asap.evaluation.models import Batch, OpenedModel, PixelBatches, choose_images, open_model, short_name
from timm_asap.evaluation.per_image import Measured, read_configuration, refuse_changes
from timm_asap.evaluation.plan import chosen_measures, make_measurements, resolve_table, settle_size
from timm_asap.evaluation.record import PER_IMAGE, RECORD, Record, check_reference, describe_data, read_record
from timm_asap.evaluation.sources import MeasuredData
from timm_asap.machine import check_memory, image_memory
from timm_asap.provenance import hub_id_of

__all__ = ["Job", "prepare", "take_up"]

PARTIAL = "evaluation.partial.safetensors"


@dataclass(frozen=True, eq=False)
class Job:
    """What it takes to measure one model.

    Args:
        config: What was asked for.
        opened: The model.
        classifier: Pixels in [0, 1] to scores of the data's classes, on the device.
        data: The images.
        cells: The measurements with an prediction per image.
        aliasing: Whether aliasing is measured, too.
        positions: Which images, by measure: clean, corruption, attack, shift, aliasing.
        device: Where it runs.
        folder: Where the record goes.
        configuration: What decides the numbers; an evaluation goes on only where it is the same.
        measured: What was measured before.
        earlier: The finished record, where there is nothing left to measure.
        notes: A line for each default that was adapted to the model.
    """

    config: EvaluateConfig
    opened: OpenedModel
    classifier: PixelModel
    data: MeasuredData
    measurements: list[Measurement]
    aliasing: bool
    positions: dict[str, torch.Tensor]
    device: torch.device
    folder: Path
    configuration: dict[str, Any]
    measured: Measured
    earlier: Record | None
    notes: tuple[str, ...] = ()

    @property
    def shown_name(self) -> str:
        """The model's name, short enough for a progress bar."""
        return short_name(self.opened.name)

    @property
    def partial(self) -> Path:
        """The file that keeps what was measured until all of it is."""
        return self.folder / PARTIAL

    @property
    def left(self) -> list[Measurement]:
        """The measurements that are not finished."""
        return [measurement for measurement in self.measurements if measurement.id not in self.measured.finished]

    @property
    def passes(self) -> float:
        """Forward passes that are left, about."""
        return sum(measurement.passes * len(self.positions[measurement.measure]) for measurement in self.left)

    def batches(self, split: Split, measure: str, batch_size: int | None = None) -> PixelBatches:
        """The images of a measure.

        Args:
            split: Where they are.
            measure: Which of them.
            batch_size: Images at a time; by default as configured.
        """
        pixels = self.opened.pixels
        return PixelBatches(
            self.data.dataset,
            split,
            self.positions[measure],
            batch_size or self.config.batch_size,
            pixels=pixels if self.data.crop_pct is None else replace(pixels, crop_pct=self.data.crop_pct),
            device=self.device,
            num_workers=self.config.num_workers,
        )

    def first_image(self, measurement: Measurement) -> Batch:
        """The first of a cell's images, on the CPU."""
        split = self.data.split if measurement.split is None else measurement.split()
        batches = self.batches(split, measurement.measure)
        batches.positions, batches.device = batches.positions[:1], torch.device("cpu")
        return next(iter(batches.load([0])))


def prepare(
    config: EvaluateConfig, name: str, data: MeasuredData, device: torch.device, reference: Record | None
) -> Job:
    """Open a model, see that the data fit it, list the measurements, and find what was measured before.

    Args:
        config: What was asked for.
        name: The model.
        data: The images.
        device: Where to run.
        reference: Of mCE.

    Raises:
        UserError: If something does not fit.
    """
    opened = open_model(name)
    try:
        classes = match_labels(
            data.dataset.label_names, opened.label_names, opened.num_classes, data.dataset.class_order
        )
    except UserError as error:
        raise UserError(f"{name} does not fit data set {config.dataset!r}: {error}") from error
    if device.type == "cpu":
        needed = image_memory(opened.pixels.size, min(config.batch_size, len(counted(data.split))))
        check_memory(needed, f"{name} with --batch-size {config.batch_size}")
    classifier = choose_classes(opened.network, classes, opened.num_classes)
    config, notes = settle_size(config, data, opened.pixels.size)
    measurements = make_measurements(config, data, opened.pixels.size)
    folder = opened.folder if config.output is None and opened.folder is not None else config.output_folder(name)
    refuse_if_locked_by_another_launch(folder)
    configuration = _configuration(config, opened, data)
    measured, earlier = _earlier(config, folder, configuration)
    job = Job(
        config=config,
        opened=opened,
        classifier=PixelModel(classifier, opened.pixels.mean, opened.pixels.std).eval(),
        data=data,
        measurements=measurements,
        aliasing="aliasing" in chosen_measures(config, data),
        positions=_positions(config, data),
        device=device,
        folder=folder,
        configuration=configuration,
        measured=measured,
        earlier=earlier,
        notes=tuple(notes),
    )
    if reference is not None:
        _check_reference(job, reference)
    _try_out(job)
    return job


def take_up(job: Job) -> Job:
    """The same job with what its folder holds by now: for the process that has locked the folder.

    Raises:
        UserError: If the folder holds what it must not replace, or something damaged.
    """
    measured, earlier = _earlier(job.config, job.folder, job.configuration)
    return replace(job, measured=measured, earlier=earlier)


def _positions(config: EvaluateConfig, data: MeasuredData) -> dict[str, torch.Tensor]:
    def choose(*limits: int | None) -> torch.Tensor:
        given = [limit for limit in limits if limit is not None]
        return choose_images(counted(data.split).labels, min(given, default=None), config.seed)

    positions: dict[str, torch.Tensor] = dict.fromkeys(("clean", "corruption", "shift"), choose(config.limit))
    # fewer images of the same draw are some of the same images
    positions["attack"] = choose(config.limit, config.limit_attacks)
    positions["aliasing"] = choose(config.limit, config.limit_aliasing)
    return positions


def _configuration(config: EvaluateConfig, opened: OpenedModel, data: MeasuredData) -> dict[str, Any]:
    return {
        "the model's weights": opened.weights_sha256,
        "the model's architecture": [opened.architecture, opened.asap],
        "the model's pixels": list(opened.pixels.data_config().values()),
        "the number of images": len(counted(data.split)),
        "their labels": data.labels_sha256,
        **config.deciding(),
    }


def _earlier(config: EvaluateConfig, folder: Path, configuration: dict[str, Any]) -> tuple[Measured, Record | None]:
    """What the folder holds of this evaluation already."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: expected a folder to write the evaluation to")
    partial, record, per_image = (folder / name for name in (PARTIAL, RECORD, PER_IMAGE))
    if config.overwrite:
        return Measured(), None
    if not config.resume:
        if there := next((path for path in (partial, record) if path.is_file()), None):
            what = "an unfinished evaluation" if there == partial else "an evaluation"
            raise UserError(
                f"{folder} already holds {what}: --resume goes on with it, --overwrite replaces it, --output chooses "
                "another folder"
            )
        return Measured(), None
    if partial.is_file():
        return Measured.load(partial, configuration), None
    if record.is_file() and per_image.is_file():
        refuse_changes(read_configuration(per_image), configuration, folder)
        earlier = read_record(record, whole=True)
        right, _ = present(earlier.per_image(), f"{PER_IMAGE} beside the record")
        results = tuple(earlier.content["results"])
        finished = tuple(dict.fromkeys("aliasing" if r["measure"] == "aliasing" else r["id"] for r in results))
        return Measured(finished, results, right), earlier
    return Measured(), None


def _check_reference(job: Job, reference: Record) -> None:
    measurements = [measurement for measurement in job.measurements if isinstance(measurement, CorruptionMeasurement)]
    data = describe_data(job.data, hub_id_of(job.data.dataset.name))
    table = resolve_table(job.config.table, job.opened.pixels.size) if not measurements else measurements[0].table
    seed = job.config.seed if not measurements else measurements[0].seed
    check_reference(reference, data, table, seed, len(job.positions["corruption"]))


@torch.no_grad()
def _try_out(job: Job) -> None:
    """One image through the network and a corruption: what does not fit says so only there."""
    _, height, width = job.opened.pixels.size
    image = job.first_image(job.measurements[0] if job.measurements else CleanMeasurement())
    try:
        scores = job.classifier(image.pixels)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(
            f"{job.opened.name} cannot take images of {height} x {width} pixels: {first_line(error)}"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.shape != (1, job.data.dataset.num_classes):
        raise UserError(f"{job.opened.name} gives no scores for {job.data.dataset.num_classes} classes")
    if first := next(
        (measurement for measurement in job.measurements if isinstance(measurement, CorruptionMeasurement)), None
    ):
        first.run(job.classifier, image)
