"""The loop: every measurement of every model, kept as it comes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from timm_asap import machine
from timm_asap._lock import shared_folder_lock
from timm_asap.data.splits import counted
from timm_asap.errors import UserError
from timm_asap.evaluation.aliasing import measure_batch, merge_aliasing
from timm_asap.evaluation.config import EvaluateConfig
from timm_asap.evaluation.finish import draw_joint_plots, draw_plots, finish
from timm_asap.evaluation.jobs import Job, prepare, take_up
from timm_asap.evaluation.measurements import Measurement, Processes
from timm_asap.evaluation.models import PixelBatches
from timm_asap.evaluation.per_image import Measured, Unfinished
from timm_asap.evaluation.plan import settle_files
from timm_asap.evaluation.record import Record, read_record
from timm_asap.evaluation.sources import load_data
from timm_asap.evaluation.statistics import wilson_interval
from timm_asap.screen import ProgressDisplay, print_text

__all__ = ["evaluate"]

_SECONDS_BETWEEN_SAVES = 20


def evaluate(config: EvaluateConfig) -> list[Record]:
    """Measure models and write their records.

    Everything that was asked for is checked before anything is measured. Under `accelerate launch` or `torchrun` the
    processes share the batches; the main one writes. The numbers do not depend on how many there are.

    Args:
        config: What to measure.

    Returns:
        The records, in the order of the models; empty in every process but the main one.

    Raises:
        UserError: If something does not fit, an output is no number, the disk is full, or another process writes to
            one of the folders.
        KeyboardInterrupt: On Ctrl-C; what was measured is kept, and `resume` goes on with it.
    """
    processes = Processes(config.device)
    reference = None if config.reference is None else read_record(config.reference)
    config, notes = settle_files(config)
    data = load_data(config)
    if processes.is_main:
        for line in (
            f"{len(counted(data.split)):,} images of {data.split_name}: {data.dataset.source}",
            *data.dataset.notes,
        ):
            print_text(line)
    jobs = [prepare(config, name, data, processes.device, reference) for name in config.models]
    _check_folders([job.folder for job in jobs])
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(shared_folder_lock(job.folder, "timm-asap evaluate"))
        jobs = [take_up(job) for job in jobs]
        processes.wait()  # every process has looked at the folders before one of them writes
        for note in dict.fromkeys([*notes, *(note for job in jobs for note in job.notes)]) if processes.is_main else ():
            print_text(f"adapted: {note}")
        return _measure(config, jobs, processes, reference)


def _measure(config: EvaluateConfig, jobs: list[Job], processes: Processes, reference: Record | None) -> list[Record]:
    records: list[Record] = []
    with ProgressDisplay(
        sum(job.passes for job in jobs), silent=not processes.is_main, name="timm-asap evaluate"
    ) as display:
        for job in jobs:
            with machine.thread_count():  # of whoever calls, and not of this model
                measured = _Evaluation(job, processes, display).run()
                if processes.is_main:
                    records.append(finish(job, measured, processes, reference))
                    if config.plots:
                        display.begin(f"{job.shown_name}  plots")
                        draw_plots(job, records[-1])
            processes.wait()
    if config.plots and len(records) > 1:
        draw_joint_plots(config, records)
    return records


class _Evaluation:
    """Measures one model."""

    def __init__(self, job: Job, processes: Processes, display: ProgressDisplay) -> None:
        self.job = job
        self.processes = processes
        self.display = display
        self.measured: Measured = job.measured
        self._saved_at = time.monotonic()
        self._batches: dict[tuple[str, int | None], PixelBatches] = {}

    def run(self) -> Measured:
        """All that is left."""
        job = self.job
        if job.earlier is not None:
            return self.measured
        try:
            with ExitStack() as stack:
                # the same numbers in every run: no algorithms that add in any order, no rounding to TF32
                flags: dict[str, Any] = {
                    "enabled": True,
                    "benchmark": False,
                    "deterministic": True,
                    "allow_tf32": False,
                }
                stack.enter_context(torch.backends.cudnn.flags(**flags))
                memory_format = torch.channels_last if job.config.channels_last else torch.contiguous_format
                job.classifier.to(job.device).to(memory_format=memory_format)
                stack.callback(lambda: job.classifier.to("cpu").to(memory_format=torch.contiguous_format))
                self._settle_threads()
                for measurement in job.left:
                    self._measure(measurement)
                if job.aliasing and "aliasing" not in self.measured.finished:
                    self._measure_aliasing()
        except BaseException:
            self._save()
            raise
        return self.measured

    def _settle_threads(self) -> None:
        """As many threads as the network makes use of, where nobody has said how many."""
        job = self.job
        if job.device.type != "cpu" or self.processes.count > 1 or machine.set_by_user() or machine.cores() == 1:
            return
        if self.measured.threads is not None:
            torch.set_num_threads(self.measured.threads)
            return
        chosen = machine.choose_threads(
            machine.forward_pass(job.classifier, job.opened.pixels.size), job.config.batch_size
        )
        self.display.say(str(chosen))
        self.measured = replace(self.measured, threads=chosen.threads)

    def _measure(self, measurement: Measurement) -> None:
        """One cell: each round every process takes a batch, and all come to know the predictions of all."""
        batches = self._images(measurement)
        state = self.measured.unfinished
        if state is None or state.id != measurement.id:
            state = Unfinished.empty(measurement.id, len(batches.positions))
        self.display.begin(f"{self.job.shown_name}  {measurement.id}")
        self.display.skip(measurement.passes * int(state.done.sum()))
        numbers = [number for number in range(len(batches)) if not state.done[batches.rows(number)].all()]
        mine = self.processes.share(numbers)
        loaded = batches.load(mine)
        for first in range(0, len(numbers), self.processes.count):
            own = Unfinished.empty(measurement.id, len(batches.positions))
            if (turn := first // self.processes.count) < len(mine):
                own = self._fill(own, measurement, next(loaded), batches.rows(mine[turn]))
            state = self._merge(state, own)
            self.measured = replace(self.measured, unfinished=state)
            images = sum(
                len(batches.positions[batches.rows(number)]) for number in numbers[first : first + self.processes.count]
            )
            self.display.advance(measurement.passes * images)
            if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
                self._save()
        result = self._result(measurement, state)
        self.measured = replace(
            self.measured,
            finished=(*self.measured.finished, measurement.id),
            results=(*self.measured.results, result),
            right={**self.measured.right, measurement.id: state.right},
            unfinished=None,
        )
        self._save()

    def _fill(self, own: Unfinished, measurement: Measurement, batch: Any, rows: slice) -> Unfinished:
        outcome = measurement.run(self.job.classifier, batch)
        own.right[rows] = outcome.right.to(torch.uint8)
        own.done[rows] = 1
        if outcome.loss is not None:
            own.loss[rows] = outcome.loss
        return replace(own, warnings=outcome.warnings)

    def _merge(self, state: Unfinished, own: Unfinished) -> Unfinished:
        """The state with what the processes measured in a round: each image by one of them, once."""
        new = self.processes.total(torch.stack([own.right.float(), own.loss, own.done.float()]))
        right, loss, done = new
        warnings = self.processes.gather(list(own.warnings)) if state.id.startswith("attack/") else []
        measured = done.bool() & ~state.done.bool()
        return Unfinished(
            state.id,
            torch.where(measured, right.to(torch.uint8), state.right),
            torch.where(measured, loss, state.loss),
            torch.where(measured, done.to(torch.uint8), state.done),
            tuple(sorted({*state.warnings, *warnings})),
        )

    def _measure_aliasing(self) -> None:
        batches = self.job.batches(self.job.data.split, "aliasing")
        self.display.begin(f"{self.job.shown_name}  aliasing")
        model = self.job.classifier
        numbers = list(range(len(batches)))
        mine = self.processes.share(numbers)
        own = [
            (number, measure_batch(self.job.opened.network, (batch.pixels - model.mean) / model.std))
            for number, batch in zip(mine, batches.load(mine), strict=True)
        ]
        parts = [sites for _, sites in sorted(self.processes.gather(own), key=lambda item: item[0])]
        results = tuple(site.record() for site in merge_aliasing(parts))
        self.measured = replace(
            self.measured,
            finished=(*self.measured.finished, "aliasing"),
            results=(*self.measured.results, *results),
        )
        self._save()

    def _images(self, measurement: Measurement) -> PixelBatches:
        if measurement.split is not None:
            return self.job.batches(measurement.split(), measurement.measure)
        # one object for all cells of the same images, which keeps them decoded
        which = "attack" if measurement.measure == "attack" else "clean"
        if (which, measurement.batch_size) not in self._batches:
            images = self.job.batches(self.job.data.split, which, measurement.batch_size)
            self._batches[which, measurement.batch_size] = images
        return self._batches[which, measurement.batch_size]

    def _result(self, measurement: Measurement, state: Unfinished) -> dict[str, Any]:
        images, right = len(state.right), int(state.right.sum())
        result = {
            "measure": measurement.measure,
            "id": measurement.id,
            **measurement.record(),
            "images": images,
            measurement.metric: 100 * right / images,
            "interval": list(wilson_interval(right, images)),
        }
        if measurement.measure in ("clean", "corruption"):
            loss = state.loss.double().mean().item()
            if not torch.isfinite(torch.tensor(loss)):
                raise UserError(
                    f"{self.job.opened.name}: the loss of {measurement.id} is {loss}: its outputs are no numbers"
                )
            result["loss"] = loss
        if measurement.measure == "attack":
            result["warnings"] = list(state.warnings)
        return result

    def _save(self) -> None:
        if self.processes.is_main and (self.measured.finished or self.measured.unfinished):
            self.measured.save(self.job.partial, self.job.configuration)
        self._saved_at = time.monotonic()


def _check_folders(folders: list[Path]) -> None:
    """Each model needs a folder of its own."""
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise UserError(f"two models would write to {twice}: evaluate them one by one, with an --output for each")
