"""The trained model in the layout of timm and the Hugging Face Hub: model.safetensors and config.json."""

from __future__ import annotations

import copy
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from timm_asap._io import disk_errors, remove, state_sha256
from timm_asap.training.plan import Plan

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
                safe_serialization=True,
                data_config=_pixels(plan),
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


def _pixels(plan: Plan) -> dict[str, Any]:
    """How an image is prepared for the model, in timm's terms."""
    return {
        "input_size": plan.input_size,
        "mean": plan.mean,
        "std": plan.std,
        "interpolation": plan.interpolation,
        "crop_pct": plan.crop_pct,
    }


def _own_config(config: dict[str, Any]) -> dict[str, Any]:
    """timm's config.json without what belongs to the weights that the model started from."""
    config["pretrained_cfg"] = {k: v for k, v in config["pretrained_cfg"].items() if k in _KEPT}
    # transformers' TimmWrapperForImageClassification passes num_classes itself, and fails if it is here too
    config.get("model_args", {}).pop("num_classes", None)
    return config
