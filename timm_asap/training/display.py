"""What a run shows: a bar on a terminal, elsewhere a line every so often; learning curves; experiment trackers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from timm_asap.errors import UserError
from timm_asap.figures import new_figure, save_png, series_style, styled
from timm_asap.screen import duration, fit_segments, print_text, room
from timm_asap.training.config import TrainConfig

__all__ = ["draw_learning_curves", "learning_curves"]


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


#: Title and unit of each panel, and the end of the names it shows.
_PANELS = (("loss", "cross-entropy", "loss"), ("accuracy", "percent", "accuracy"), ("learning rate", "", "lr"))
# An adaptation has no labels, and so no accuracy.
_ADAPTATION_PANELS = (
    ("training loss", "", "loss"),
    ("agreement", "percent", "agreement"),
    ("divergence from plain", "KL", "kl"),
    ("learning rate", "", "lr"),
)

_LABELS = {"pgd": "under PGD"}
_ADAPTATION_LABELS = {"": "held out", "confident": "held out, plain confident", "train": "train"}

# With more epochs than this, markers would hide the lines.
_MARKED_EPOCHS = 30
# A loss that falls by more than this is drawn on a logarithmic scale: its first epochs would hide the rest.
_LINEAR_RANGE = 30


@styled
def draw_learning_curves(records: Sequence[dict[str, Any]]) -> Figure:
    """Every loss, every accuracy and the learning rate, over epochs.

    Args:
        records: Lines of metrics.jsonl, oldest first. Keys that end in `loss`, `accuracy` or `lr` are drawn, and of an
            adaptation `agreement` and `kl`; a key may be missing, or not a number, in some epochs.

    Returns:
        The figure, one panel of each kind.
    """
    figure = new_figure(10.5, 3.2)
    names = sorted({key for record in records for key in record if _numbers(records, key)}, key=_order)
    adapted = "train_agreement" in names
    panels, labels = (_ADAPTATION_PANELS, _ADAPTATION_LABELS) if adapted else (_PANELS, _LABELS)
    for axis, (title, unit, ending) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        shown = [name for name in names if name == ending or name.endswith(f"_{ending}")]
        for number, name in enumerate(shown):
            short = name.removesuffix(ending).strip("_")
            _draw(axis, _numbers(records, name), number, labels.get(short, short.replace("_", " ")))
        axis.set_title(f"{title} ({unit})" if unit else title)
        axis.set_xlabel("part of the run" if adapted else "epoch")
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
    """Draw `draw_learning_curves` into a PNG, in full or not at all.

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
    style: dict[str, Any] = series_style(number)
    if len(points) > _MARKED_EPOCHS:
        style["marker"] = ""
    axis.plot(*zip(*points, strict=True), label=label or None, **style)


def check_tracker(name: str | None) -> None:
    """See that the package of a tracker is installed.

    Raises:
        UserError: If it is not.
    """
    if name is not None and find_spec(name) is None:
        raise UserError(f"--tracker {name}: the package is not installed; run: pip install {name}")


def start_tracker(accelerator: Accelerator, config: TrainConfig) -> None:
    """Tell the tracker of a run, if it has one, what the run is."""
    if config.tracker is None:
        return
    plain = {
        name: json.dumps(value) if isinstance(value, (dict, list, tuple)) else value
        for name, value in config.recorded().items()
        if value is not None
    }
    # tensorboard names a run by its folder, and takes no name
    named = {} if config.tracker == "tensorboard" else {config.tracker: {"name": config.run_folder.name}}
    accelerator.init_trackers("timm_asap", config=plain, init_kwargs=named)
