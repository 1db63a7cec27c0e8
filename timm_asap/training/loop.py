"""Training, read from top to bottom: start, then for each epoch train, measure, record, save.

At the end, the weights that the run leaves behind are measured on the test split.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap._io import state_sha256
from timm_asap.data import PADDING_LABEL
from timm_asap.data.splits import counted
from timm_asap.errors import UserError
from timm_asap.machine import thread_count
from timm_asap.training.config import TrainConfig
from timm_asap.training.epoch import Stopped, evaluate, start_sums, train_epoch, watch_robustness
from timm_asap.training.export import export_best_again, save_epoch
from timm_asap.training.plan import build_test_loader
from timm_asap.training.run import Run
from timm_asap.training.start import start_run
from timm_asap.zoo import load


def measure_exported_model(run: Run) -> None:
    """Write result.json: the test split, looked at with the exported weights.

    Where no validation split chose them, they are the last epoch's, which has just been tested. Otherwise the main
    process tests them now, for the first time.
    """
    export_best_again(run)
    if not run.accelerator.is_main_process:
        return
    model = load(f"local-dir:{run.folder.path}").eval()
    weights = {"weights_sha256": state_sha256(model.state_dict())}  # a card shows no accuracy of other weights
    if run.plan.dataset.val is None:
        last = run.folder.metrics()[-1]
        names = ("epoch", "test_loss", "test_accuracy", "test_images")
        if missing := [name for name in names if name not in last]:
            raise UserError(
                f"{run.folder.metrics_jsonl}: the line of epoch {last['epoch']} has no {missing[0]}, which was "
                "measured then: put the file back, or start again with --overwrite"
            )
        run.folder.write_result({name: last[name] for name in names} | {"chosen_by": "last epoch"} | weights)
        return
    measured = _measure(run, model)
    chosen_by = f"highest accuracy on {run.plan.dataset.val_name} ({len(counted(run.plan.dataset.val)):,} images)"
    run.folder.write_result({"epoch": run.position.best_epoch, **measured, "chosen_by": chosen_by} | weights)


@torch.inference_mode()
def _measure(run: Run, model: nn.Module) -> dict[str, float]:
    """Loss and accuracy (percent) of the exported model on the test split, by this process alone."""
    model = model.to(run.device).to(memory_format=run.memory_format)
    loss, correct, images = 0.0, 0, 0
    own = run.plan.pixels
    mean, std = (torch.tensor(v, device=run.accelerator.device).view(-1, 1, 1) for v in (own.mean, own.std))
    for pixels, labels in build_test_loader(run.plan, run.plan.dataset.test, pixels=True):
        batch = ((pixels.to(mean.device) - mean) / std).contiguous(memory_format=run.memory_format)
        labels = labels.to(mean.device)
        with run.accelerator.autocast():
            scores = model(batch).float()
        loss += F.cross_entropy(scores, labels, reduction="sum", ignore_index=PADDING_LABEL).item()
        correct += (scores.argmax(dim=1) == labels).sum().item()
        images += (labels != PADDING_LABEL).sum().item()
    return {"test_loss": loss / images, "test_accuracy": 100 * correct / images, "test_images": images}


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run_folder: Path
    epochs: int
    """Finished epochs."""
    stopped: bool
    """Whether it was asked to stop before its last epoch."""
    test_accuracy: float | None
    """Percent, of the weights that were exported; None where the run was stopped."""
    test_loss: float | None
    test_name: str
    test_images: int | None
    classes: int
    """Of the data."""
    seconds: float
    """Time spent in training and testing, continuations included."""
    load_line: str
    """The line of Python that gives the trained model back."""
    is_main_process: bool


def train(config: TrainConfig, then: Callable[[Path], object] | None = None) -> TrainResult:
    """Train a model and write its run folder; `accelerate launch` starts it on several processes.

    SIGINT and SIGTERM finish the step, save and end the run; a second one stops it at once, as the first one does
    before training begins.

    Args:
        config: The run.
        then: What the main process does with the folder of a run that came to its end, such as writing its card,
            while no other process may write there.

    Raises:
        UserError: If the configuration cannot be run, before anything is written; or if the loss stops being a
            number or the disk is full, with the last checkpoint kept.
    """
    with thread_count():  # of whoever calls, and not of this run
        return _train(config, then)


def _train(config: TrainConfig, then: Callable[[Path], object] | None) -> TrainResult:
    run = start_run(config)
    with run.held:
        stopped = False
        with run.stop, run.display:
            try:
                for epoch in range(run.position.epoch, run.plan.config.epochs):
                    record = run_epoch(run, epoch)
                    run.display.show_epoch(record)
                    if _should_end_early(run):
                        break
            except Stopped:
                stopped = True
        if not stopped:
            measure_exported_model(run)
            if then is not None and run.accelerator.is_main_process:
                then(run.folder.path)
        run.accelerator.wait_for_everyone()  # for the main process to have written the last record
        result = _result(run, stopped)
        run.accelerator.end_training()
    return result


def run_epoch(run: Run, epoch: int) -> dict[str, Any]:
    """Train, measure, record and save one epoch, or what is left of it.

    Args:
        run: The run.
        epoch: Counted from 0.

    Raises:
        Stopped: If the run was asked to stop; its state is saved.
    """
    _reset_peak_memory(run)
    trained = train_epoch(run, epoch)
    began = time.perf_counter()
    if run.val_loader is None:
        measured = evaluate(run, run.test_loader, "test")
    else:
        measured = evaluate(run, run.val_loader, "val")
    watched = watch_robustness(run)
    record = {
        "epoch": epoch + 1,
        "step": run.position.step,
        "lr": run.optimizer.param_groups[0]["lr"],
        **trained,
        **measured,
        **watched,
        **_peak_memory(run),
        "seconds": run.epoch_sums.seconds + time.perf_counter() - began,
    }
    run.position.epoch, run.position.batch = epoch + 1, 0
    run.sums = start_sums(run)
    save_epoch(run, record)
    return record


def _should_end_early(run: Run) -> bool:
    """Whether the run ends before its last epoch: nothing better for long, or asked to stop in the meantime."""
    patience = run.plan.config.early_stop
    if patience is not None and run.position.epoch - run.position.best_epoch >= patience:
        run.display.say(f"no better epoch since {run.position.best_epoch}: stopping early")
        return True
    asked = torch.tensor(float(run.stop.asked), device=run.accelerator.device)
    if run.reduced(asked, "sum") > 0 and run.position.epoch < run.plan.config.epochs:
        raise Stopped
    return False


def _reset_peak_memory(run: Run) -> None:
    if run.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.accelerator.device)


def _peak_memory(run: Run) -> dict[str, float]:
    if run.accelerator.device.type != "cuda":
        return {}
    return {"peak_memory_mib": torch.cuda.max_memory_allocated(run.accelerator.device) / 2**20}


def _result(run: Run, stopped: bool) -> TrainResult:
    final = {} if stopped else run.folder.result()
    return TrainResult(
        run_folder=run.folder.path,
        epochs=run.position.epoch,
        stopped=stopped,
        test_accuracy=final.get("test_accuracy"),
        test_loss=final.get("test_loss"),
        test_name=run.plan.dataset.test_name,
        test_images=final.get("test_images"),
        classes=run.plan.dataset.num_classes,
        seconds=sum(record["seconds"] for record in run.folder.metrics()),
        load_line=run.folder.load_line,
        is_main_process=run.accelerator.is_main_process,
    )
