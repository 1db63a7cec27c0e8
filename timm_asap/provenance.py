"""What produced a result: command, versions, hardware and data, as run.json and evaluation.json record them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import timm_asap
from timm_asap._io import cut_path
from timm_asap.data import TensorSplit
from timm_asap.training.command_line import command
from timm_asap.training.plan import Plan, count_images

# Data sets that are on the Hub under another name than here.
_HUB_IDS = {"fashion_mnist": "zalando-datasets/fashion_mnist"}

_PACKAGES = ("torch", "timm", "accelerate", "datasets", "numpy")


def run_facts(plan: Plan, accelerator: Accelerator) -> dict[str, Any]:
    """The contents of run.json.

    Args:
        plan: The run's configuration, data and model.
        accelerator: Its processes and device.
    """
    data = plan.dataset
    hub_id = hub_id_of(data.name)
    return {
        "command": command(plan.config, _launcher(accelerator)),
        "versions": package_versions(),
        "hardware": hardware(accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "model": {
            "name": cut_path(plan.config.model),
            "parameters": plan.parameters,
            "input_size": plan.pixels.size,
        },
        "data": {
            "name": Path(data.name).name if hub_id is None else data.name,
            "hub_id": hub_id,
            "source": data.source,
            "frame": data.frame,
            "small": isinstance(data.test, TensorSplit),
            "classes": data.num_classes,
            "label_names": data.label_names,
            "train_images": count_images(data.train),
            "val_images": None if data.val is None else count_images(data.val),
            "val_name": data.val_name,
            "test_images": count_images(data.test),
            "test_name": data.test_name,
        },
    }


def hub_id_of(dataset: str) -> str | None:
    """The id of a data set on the Hugging Face Hub; None for a folder, and for one that is not there."""
    if dataset in _HUB_IDS:
        return _HUB_IDS[dataset]
    name, _, _ = dataset.partition(":")
    return name if name.count("/") == 1 and not Path(dataset).exists() else None


def _launcher(accelerator: Accelerator) -> str | None:
    """What started several processes, in words that start as many again."""
    if accelerator.num_processes == 1:
        return None
    if accelerator.device.type == "cpu":  # of which `accelerate launch` starts only one without MPI
        return f"torchrun --nproc-per-node {accelerator.num_processes}"
    return f"accelerate launch --num_processes {accelerator.num_processes}"


def package_versions() -> dict[str, str]:
    """Of Python, this package and those that its numbers depend on."""
    # a checkout that is not installed has no package metadata, so this package is asked itself
    own = {"python": platform.python_version(), "timm_asap": timm_asap.__version__}
    return own | {name: version(name) for name in _PACKAGES}


def hardware(device: torch.device) -> str:
    """The kind of device that a process runs on, without naming the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()} CPU, {_threads(torch.get_num_threads())} of {os.cpu_count()} cores"
    return device.type


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
