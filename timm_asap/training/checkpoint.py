"""Checkpoints: safetensors files of tensors, with all else as JSON in the header, and no pickle.

The name of a checkpoint holds its optimizer step and the beginning of its SHA-256: name and content change in one
rename, and a damaged file is known by its name alone. The states of the random generators are tensors and plain values.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from timm_asap._io import disk_errors, replace_file, sha256
from timm_asap._types import present
from timm_asap.errors import UserError

# Raised when the layout of the file changes; a file of another version is refused.
VERSION = 2

_DIGITS = 16  # of the SHA-256
_NAME = re.compile(rf"step-(\d{{8,}})\.([0-9a-f]{{{_DIGITS}}})\.safetensors")

_WHEN_FULL = "make room, or see to the right to write there, then go on with --resume"


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        path: The folder; it need not exist.
        keep: How many of the newest are kept, besides the best one.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    def files(self) -> list[Path]:
        """All checkpoints, the newest first; whether they are whole is not looked at."""
        names = [path for path in self.path.glob("step-*.safetensors") if _NAME.fullmatch(path.name)]
        return sorted(names, key=lambda path: (_step(path), path.stat().st_mtime_ns), reverse=True)

    def save(self, state: dict[str, Any], step: int, best_step: int | None = None) -> Path:
        """Write a checkpoint, then remove those that need not be kept.

        Args:
            state: Nested dicts, lists and tuples of tensors and plain values.
            step: Optimizer step that it was taken after.
            best_step: Step of the best checkpoint, which stays.

        Returns:
            Its path.

        Raises:
            UserError: If the disk does not take it; older checkpoints are untouched then.
        """
        whole = self.path / ".next.aside"  # its name is known once its content is; a killed process leaves it
        doing = f"the checkpoint of step {step} cannot be written to {self.path}"
        with replace_file(whole, doing=doing, hint=_WHEN_FULL) as aside:
            write_state(aside, state)
            digest = sha256(aside)[:_DIGITS]
        with disk_errors(doing, _WHEN_FULL):
            path = whole.replace(self.path / f"step-{step:08d}.{digest}.safetensors")
            for older in [file for file in self.files() if file != path][self.keep - 1 :]:
                if _step(older) != best_step:
                    older.unlink()
            for twin in self.files():  # an earlier attempt at the same step, before a resume
                if twin != path and _step(twin) == step:
                    twin.unlink()
        return path

    def of_step(self, step: int) -> dict[str, Any] | None:
        """The state after a step; None where no whole checkpoint holds it."""
        for path in self.files():
            if _step(path) == step:
                try:
                    return read_checkpoint(path)
                except UserError as error:
                    warnings.warn(str(error), stacklevel=2)
        return None

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its state; None if there are none at all.

        Damaged ones are skipped with a warning.

        Raises:
            UserError: If there are checkpoints, and all are damaged or of another version.
        """
        files = self.files()
        for path in files:
            try:
                return path, read_checkpoint(path)
            except UserError as error:
                warnings.warn(f"{error}; the one before it is used", stacklevel=2)
        if files:
            raise UserError(f"every checkpoint in {self.path} is damaged: start again with --overwrite")
        return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU.

    Args:
        path: A file of `CheckpointFolder.save`; its name is compared with its content.

    Raises:
        UserError: If the file is damaged, or of another version.
    """
    try:
        expected = _NAME.fullmatch(path.name)
        if expected is not None and sha256(path)[:_DIGITS] != expected[2]:
            raise ValueError("its content does not match the checksum in its name")
        state = read_state(path)
        version = state.get("version")
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error})") from error
    if version != VERSION:
        raise UserError(f"checkpoint {path}: expected version {VERSION}, got {version}")
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts, lists and tuples of tensors and plain values to a safetensors file."""
    tensors: dict[str, torch.Tensor] = {}
    header = {"state": json.dumps(_pack({"version": VERSION, **state}, tensors, "state"))}
    save_file(tensors, path, metadata=header)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote."""
    with safe_open(path, framework="pt") as file:
        packed = json.loads((file.metadata() or {}).get("state", "{}"))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    return _unpack(packed, tensors)


def _step(path: Path) -> int:
    return int(present(_NAME.fullmatch(path.name), f"step in the name {path.name}")[1])


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


def get_random_state() -> dict[str, Any]:
    """Those of this process: Python's, NumPy's, PyTorch's on the CPU and on every GPU."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `get_random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    numpy_state = state["numpy"]
    numpy_state["state"]["key"] = numpy_state["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
