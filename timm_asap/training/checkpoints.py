"""Resumable state in one safetensors file: tensors as tensors, all else as JSON in its header, no pickle."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from timm_asap.errors import UserError
from timm_asap.training.files import replace_file

# Raised when the layout of the file changes; a file of another version is refused.
VERSION = 1


@dataclass
class Position:
    """How far a run has come. The learning-rate schedule is a function of `step` and needs no state of its own."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Optimizer steps made."""
    best_accuracy: float = -1.0
    """Highest test accuracy so far, in percent."""


def save_checkpoint(
    path: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
) -> None:
    """Write all that `load_checkpoint` needs to go on bit-equally; every process calls it, the main one writes.

    Args:
        path: The file; it is replaced in one go.
        accelerator: The processes, and the loss scaler of fp16.
        model: As `accelerator.prepare` returned it.
        optimizer: Likewise.
        position: How far the run has come.
    """
    state = {
        "version": VERSION,
        "position": asdict(position),
        "model": accelerator.get_state_dict(model),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        "random": gather_object([_random_state()]),
    }
    if not accelerator.is_main_process:
        return
    tensors: dict[str, torch.Tensor] = {}
    header = {"state": json.dumps(_pack(state, tensors, "state"))}
    with replace_file(path) as aside:
        save_file(tensors, aside, metadata=header)


def load_checkpoint(
    path: Path, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Position:
    """Put a saved state into a model, its optimizer and the random generators; every process calls it.

    With another number of processes than before, their random states mean nothing: those of this run's start
    are kept.

    Args:
        path: A file of `save_checkpoint`.
        accelerator: The processes, and the loss scaler of fp16.
        model: As `accelerator.prepare` returned it.
        optimizer: Likewise.

    Returns:
        How far the run had come.

    Raises:
        UserError: If the file is damaged, of another version, or of another model.
    """
    state = read_checkpoint(path)
    try:
        accelerator.unwrap_model(model).load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        first_lines = " ".join(str(error).split())[:200]
        raise UserError(f"{path} holds the state of another model or optimizer: {first_lines}") from error
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    if len(state["random"]) == accelerator.num_processes:
        _set_random_state(state["random"][accelerator.process_index])
    return Position(**state["position"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a file of `save_checkpoint`, on the CPU.

    Raises:
        UserError: If the file is damaged, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            packed = json.loads((file.metadata() or {}).get("state", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        state = _unpack(packed, tensors)
        version = state.get("version")
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}): start again with --overwrite") from error
    if version != VERSION:
        raise UserError(f"checkpoint {path}: expected version {VERSION}, got {version}")
    return state


def _random_state() -> dict[str, Any]:
    """The states of every generator that training draws from, in this process."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    numpy_state = state["numpy"]
    numpy_state["state"]["key"] = numpy_state["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _pack(value: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    """JSON for any nesting of dicts, lists, tuples and plain values; its tensors go to `tensors` by name."""
    if isinstance(value, torch.Tensor):
        # cloned, or safetensors would refuse weights that share memory
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values, got a {type(value).__name__} at {name}")


def _unpack(packed: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    if not packed:
        return {}
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
