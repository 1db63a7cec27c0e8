"""Training, read from top to bottom: start, then for each epoch train, test, record, save."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from timm_asap.training.checkpoints import save_checkpoint
from timm_asap.training.config import TrainConfig
from timm_asap.training.epoch import evaluate, train_epoch
from timm_asap.training.export import export_model
from timm_asap.training.start import Run, start_run


@dataclass(frozen=True)
class TrainResult:
    """What a run came to: its last record."""

    run_folder: Path
    epochs: int
    test_accuracy: float
    """Percent."""
    test_loss: float
    test_name: str
    test_images: int
    seconds: float
    """Time spent in training and testing, continuations included."""
    load_line: str
    """The line of Python that gives the trained model back."""
    is_main_process: bool


def train(config: TrainConfig) -> TrainResult:
    """Train a model and write its run folder; `accelerate launch` starts it on several processes.

    Args:
        config: The run.

    Raises:
        UserError: If the configuration cannot be run, before anything is written; or if the loss stops being a
            number, with the last finished epoch kept.
    """
    run = start_run(config)
    with run.display:
        for epoch in range(run.position.epoch, config.epochs):
            began = time.perf_counter()
            trained = train_epoch(run, epoch)
            tested = evaluate(run)
            run.position.epoch = epoch + 1
            record = {
                "epoch": run.position.epoch,
                "step": run.position.step,
                "lr": run.optimizer.param_groups[0]["lr"],
                **trained,
                **tested,
                "seconds": time.perf_counter() - began,
            }
            _save_epoch(run, record)
            run.display.show_epoch(record)

    result = _result(run)
    run.accelerator.end_training()
    return result


def _save_epoch(run: Run, record: dict[str, float]) -> None:
    """Write the records of an epoch; the checkpoint comes last, so that a resumed run finds all before it."""
    is_best = record["test_accuracy"] > run.position.best_accuracy
    run.position.best_accuracy = max(run.position.best_accuracy, record["test_accuracy"])
    if run.accelerator.is_main_process:
        export_model(run.plan, run.accelerator.unwrap_model(run.model), run.folder.path)
        run.folder.add_metrics(record)
    for path in [run.folder.best_checkpoint] * is_best + [run.folder.last_checkpoint]:
        save_checkpoint(path, run.accelerator, run.model, run.optimizer, run.position)


def _result(run: Run) -> TrainResult:
    run.accelerator.wait_for_everyone()  # for the main process to have written the last record
    records = run.folder.metrics()
    return TrainResult(
        run_folder=run.folder.path,
        epochs=records[-1]["epoch"],
        test_accuracy=records[-1]["test_accuracy"],
        test_loss=records[-1]["test_loss"],
        test_name=run.plan.dataset.test_name,
        test_images=len(run.plan.dataset.test),
        seconds=sum(record["seconds"] for record in records),
        load_line=run.folder.load_line,
        is_main_process=run.accelerator.is_main_process,
    )
