"""What a run shows: a bar on a terminal, elsewhere a line every so often, and a line per epoch everywhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from timm_asap.screen import duration, fit_segments, print_text, room

SECONDS_BETWEEN_LINES = 30
"""Of an epoch that goes on where there is no terminal for a bar."""


class ProgressDisplay:
    """The progress of a run, on standard output.

    Args:
        epochs: Epochs of the whole run.
        steps_per_epoch: Optimizer steps per epoch.
        batch_size: Images per optimizer step.
        silent: Show nothing: every process but the main one.
        measure: What to call the percentage of images that are right: without labels it is no accuracy.
    """

    def __init__(
        self, epochs: int, steps_per_epoch: int, batch_size: int, silent: bool = False, measure: str = "accuracy"
    ) -> None:
        self.measure = measure
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.silent = silent
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=silent or not self.console.is_terminal,
        )
        self.says_steps = not silent and not self.console.is_terminal
        self.said_at = time.monotonic()
        self.task = self.bar.add_task(
            "train",
            total=epochs * steps_per_epoch,
            epoch=1,
            epochs=epochs,
            figures="",
        )
        self.epoch_began, self.steps_before = time.perf_counter(), 0

    def __enter__(self) -> ProgressDisplay:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def begin_epoch(self, epoch: int, steps: int = 0) -> None:
        """Start the clock of an epoch.

        Args:
            epoch: Counted from 0.
            steps: Of it that were made before, when a run is continued.
        """
        self.epoch_began, self.steps_before = time.perf_counter(), steps
        self.bar.update(self.task, epoch=epoch + 1, completed=epoch * self.steps_per_epoch + steps)

    def show_step(self, epoch: int, steps: int, loss: float, accuracy: float) -> None:
        """Move the bar.

        Args:
            epoch: The epoch, counted from 0.
            steps: Optimizer steps made in it.
            loss: Mean training loss of the epoch so far.
            accuracy: Training accuracy of the epoch so far, in percent.
        """
        images = (steps - self.steps_before) * self.batch_size
        images_per_s = images / (time.perf_counter() - self.epoch_began)
        self.bar.update(
            self.task,
            completed=epoch * self.steps_per_epoch + steps,
            figures=f"loss {loss:.3f}  {accuracy:.1f} %  {images_per_s:,.0f} img/s",
        )
        if self.says_steps and time.monotonic() - self.said_at >= SECONDS_BETWEEN_LINES:
            left = (self.steps_per_epoch - steps) * self.batch_size / images_per_s
            self.say(
                f"epoch {epoch + 1}/{self.epochs}  step {steps}/{self.steps_per_epoch}  loss {loss:.4f}  "
                f"{self.measure} {accuracy:6.2f} %  {images_per_s:,.0f} images/s  "
                f"about {duration(left)} left of the epoch"
            )

    def show_epoch(self, record: dict[str, Any]) -> None:
        """Print the line of a finished epoch, a record of metrics.jsonl."""
        width = len(str(self.epochs))
        split = "val" if "val_loss" in record else "test"
        under_attack = [f"under attack {record['pgd_accuracy']:6.2f} %"] if "pgd_accuracy" in record else []
        segments = [
            f"epoch {record['epoch']:{width}}/{self.epochs}",
            f"loss {record['train_loss']:.4f}",
            f"accuracy {record['train_accuracy']:6.2f} %",
            f"{split} loss {record[f'{split}_loss']:.4f}",
            f"{split} accuracy {record[f'{split}_accuracy']:6.2f} %",
            *under_attack,
            f"{record['images_per_s']:,.0f} images/s",
        ]
        columns = room(self.console)
        if columns is not None and len("  ".join(segments)) > columns:
            # metrics.jsonl holds all of it
            attacked = [f"attacked {record['pgd_accuracy']:6.2f} %"] if "pgd_accuracy" in record else []
            segments = [
                *segments[:2],
                f"train {record['train_accuracy']:6.2f} %",
                f"{split} {record[f'{split}_accuracy']:6.2f} %",
                *attacked,
                f"{record['images_per_s']:,.0f} img/s",
            ]
        self.say(fit_segments(segments, columns, indent=8 + 2 * width))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.said_at = time.monotonic()
        if not self.silent:
            print_text(text, self.console)
