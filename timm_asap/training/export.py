"""What a run writes to its folder: the exported model, as timm and the Hub lay it out, checkpoints, records, plots."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from timm_asap._io import disk_errors, remove, state_sha256
from timm_asap._timm import save_for_hf
from timm_asap.errors import UserError
from timm_asap.training.display import learning_curves
from timm_asap.training.plan import Plan
from timm_asap.training.run import Run, gather_state, set_weights
from timm_asap.zoo.model_config import name_import

# What describes these weights and their pixels. Everything else in a model's pretrained_cfg (tag, origin_url,
# paper_ids, license, test sizes, ...) describes the weights that it started from, or would have.
_KEPT = {
    *("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("num_classes", "pool_size", "first_conv", "classifier", "custom_load"),
}


def export_model(plan: Plan, model: nn.Module, folder: Path) -> None:
    """Write the model so that `timm.create_model("local-dir:FOLDER", pretrained=True)` gives it back.

    Args:
        plan: Where the model came from, and how its pixels are prepared.
        model: The trained network, without wrappers, on any device.
        folder: Where to write; both files are complete before either replaces an older one.

    Raises:
        UserError: If the disk does not take it; what was there is untouched then.
    """
    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    aside = folder / ".export.aside"
    with disk_errors(f"the trained model cannot be written to {folder}"):
        remove(aside)
        try:
            save_for_hf(
                model,
                str(aside),
                model_config={"label_names": list(plan.dataset.label_names)},
                data_config=plan.pixels.data_config(),
            )
            config_file = aside / "config.json"
            config = _own_config(json.loads(config_file.read_text(encoding="utf-8")))
            config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            shutil.copymode(config_file, aside / "model.safetensors")  # safetensors lets only the owner read it
            for name in ("model.safetensors", "config.json"):
                with open(aside / name, "rb+") as file:
                    os.fsync(file.fileno())
            for name in ("model.safetensors", "config.json"):
                os.replace(aside / name, folder / name)
        finally:
            with suppress(OSError):
                remove(aside)


def is_exported(model: nn.Module, folder: Path) -> bool:
    """Whether a folder holds the weights of a network already, whole and with their configuration.

    Args:
        model: The trained network, without wrappers, on the CPU.
        folder: What `export_model` wrote to.
    """
    try:
        saved = load_file(folder / "model.safetensors")
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError):
        return False
    return state_sha256(saved) == state_sha256(model.state_dict())


def _own_config(config: dict[str, Any]) -> dict[str, Any]:
    """timm's config.json without what belongs to the weights that the model started from."""
    config["pretrained_cfg"] = {k: v for k, v in config["pretrained_cfg"].items() if k in _KEPT}
    # transformers' TimmWrapperForImageClassification passes num_classes itself, and fails if it is here too
    config.get("model_args", {}).pop("num_classes", None)
    name_import(config)
    return config


def save_checkpoint(run: Run) -> None:
    """Write all that `--resume` needs; every process calls it, the main one writes.

    Raises:
        UserError: If the disk does not take it.
    """
    state = gather_state(run, run.epoch_sums)
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
