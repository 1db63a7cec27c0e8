"""What a run leaves in its folder as it goes: checkpoints, the exported model, records and plots."""

from __future__ import annotations

import warnings
from typing import Any

from timm_asap.errors import UserError
from timm_asap.training.export import export_model, is_exported
from timm_asap.training.plots import learning_curves
from timm_asap.training.run import Run
from timm_asap.training.state import gather_state, set_weights


def save_checkpoint(run: Run) -> None:
    """Write all that `--resume` needs; every process calls it, the main one writes.

    Raises:
        UserError: If the disk does not take it.
    """
    state = gather_state(run, run.sums)
    if run.accelerator.is_main_process:
        run.folder.checkpoints.save(state, run.position.step, best_step=run.position.best_step)
        run.folder.drop_replaced()
    run.saved_epoch = run.position.epoch
    run.accelerator.wait_for_everyone()  # a process that stops now must not take the writing one with it


def save_epoch(run: Run, record: dict[str, Any]) -> None:
    """Write the record of an epoch, its checkpoint, and what follows from both.

    The checkpoint comes before the export: where the disk has no room for that, `finish_epoch` makes up for it later,
    and nothing is trained again.
    """
    judged = record["val_accuracy"] if "val_accuracy" in record else record["test_accuracy"]
    if judged > run.position.best_accuracy:
        run.position.best_accuracy = judged
        run.position.best_epoch, run.position.best_step = run.position.epoch, run.position.step
    if run.accelerator.is_main_process:
        run.folder.add_metrics(record)
    save_checkpoint(run)
    finish_epoch(run)
    run.accelerator.log({name: value for name, value in record.items() if name != "epoch"}, step=record["epoch"])


def finish_epoch(run: Run) -> None:
    """Export the weights of the epoch that has just ended, as far as that is not done yet, and draw the curves.

    Every process calls it.

    Raises:
        UserError: If the disk does not take it; the checkpoint of the epoch stands.
    """
    # the test split must not choose: without a validation split, the last epoch is what is exported
    exports = run.plan.dataset.val is None or run.position.best_epoch == run.position.epoch
    network = run.network_on_cpu() if exports else None
    if not run.accelerator.is_main_process:
        return
    try:
        if network is not None and not is_exported(network, run.folder.path):
            export_model(run.plan, network, run.folder.path)
            run.folder.remove_result()  # it tells of the weights before
        learning_curves(run.folder.metrics(), run.folder.path / "plots" / "learning_curves.png")
    except UserError as error:
        raise UserError(
            f"{error}; epoch {run.position.epoch} is kept, and --resume goes on after it without training it again"
        ) from error


def export_best_again(run: Run) -> None:
    """Export the best epoch from its checkpoint, where the folder no longer holds what was exported then.

    Every process calls it, at the end of a run; the network holds the weights of that epoch afterwards, where they
    had to be read.
    """
    if run.plan.dataset.val is None or run.position.best_epoch == run.position.epoch:
        return
    if all((run.folder.path / name).is_file() for name in ("model.safetensors", "config.json")):
        return
    state = run.folder.checkpoints.of_step(run.position.best_step)
    if state is None:
        raise UserError(
            f"{run.folder.path} holds neither the weights of epoch {run.position.best_epoch}, the best one, nor its "
            "checkpoint: train again with --overwrite"
        )
    warnings.warn(f"exported again, from its checkpoint: epoch {run.position.best_epoch}", stacklevel=2)
    set_weights(run, state)
    network = run.network_on_cpu()
    if run.accelerator.is_main_process:
        export_model(run.plan, network, run.folder.path)
