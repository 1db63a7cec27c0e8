"""What a run leaves in its folder as it goes: checkpoints, the exported model, records and plots."""

from __future__ import annotations

from typing import Any

from timm_asap.training.export import export_model
from timm_asap.training.plots import learning_curves
from timm_asap.training.run import Run
from timm_asap.training.state import gather_state


def save_checkpoint(run: Run) -> None:
    """Write all that `--resume` needs; every process calls it, the main one writes.

    Raises:
        UserError: If the disk does not take it.
    """
    state = gather_state(run, run.sums)
    if run.accelerator.is_main_process:
        run.folder.checkpoints.save(state, run.position.step, best_step=run.position.best_step)
    run.saved_epoch = run.position.epoch
    run.accelerator.wait_for_everyone()  # a process that stops now must not take the writing one with it


def save_epoch(run: Run, record: dict[str, Any]) -> None:
    """Write the records of an epoch; the checkpoint comes last, so that a resumed run finds all before it."""
    judged = record["val_accuracy"] if "val_accuracy" in record else record["test_accuracy"]
    is_best = judged > run.position.best_accuracy
    if is_best:
        run.position.best_accuracy = judged
        run.position.best_epoch, run.position.best_step = run.position.epoch, run.position.step
    # the test split must not choose: without a validation split, the last epoch is what is exported
    if is_best or run.plan.dataset.val is None:
        network = run.network_on_cpu()
        if run.accelerator.is_main_process:
            export_model(run.plan, network, run.folder.path)
    if run.accelerator.is_main_process:
        run.folder.add_metrics(record)
        learning_curves(run.folder.metrics(), run.folder.path / "plots" / "learning_curves.png")
    run.accelerator.log({name: value for name, value in record.items() if name != "epoch"}, step=record["epoch"])
    save_checkpoint(run)
