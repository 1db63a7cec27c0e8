"""What each image did, cell by cell: the file beside the record, and the one that an evaluation goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from timm_asap._io import read_sealed, replace_file, save_sealed, write_sealed
from timm_asap.errors import UserError

__all__ = [
    "Measured",
    "Unfinished",
    "read_configuration",
    "read_per_image",
    "refuse_changes",
    "save_per_image",
    "write_per_image",
]

_SAMPLE_IDS = "sample_ids/"

_AGAIN = "evaluate again with --overwrite"


@dataclass(frozen=True, eq=False)
class Unfinished:
    """A cell of which some batches are measured.

    Args:
        id: The cell.
        right: uint8, (N,): 1 where the image was right.
        loss: float32, (N,).
        done: uint8, (N,): 1 where the image was measured; the others hold zeros.
        warnings: One-line reasons to doubt it, so far.
    """

    id: str
    right: torch.Tensor
    loss: torch.Tensor
    done: torch.Tensor
    warnings: tuple[str, ...] = ()

    @classmethod
    def empty(cls, cell_id: str, images: int) -> Unfinished:
        """Nothing measured yet."""
        return cls(
            cell_id,
            torch.zeros(images, dtype=torch.uint8),
            torch.zeros(images),
            torch.zeros(images, dtype=torch.uint8),
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """All that was measured so far.

    Immutable: an interrupt finds the state before a batch or after it, never between.

    Args:
        finished: Ids of the cells that are.
        results: Entries of the record.
        right: uint8 (N,) by the id of the entry; those without an prediction per image have none.
        unfinished: The cell under way.
        threads: Of the CPU, where they were chosen: an evaluation goes on with as many, to the same last digit.
    """

    finished: tuple[str, ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    right: dict[str, torch.Tensor] = field(default_factory=dict)
    unfinished: Unfinished | None = None
    threads: int | None = None

    def save(self, path: Path, configuration: Mapping[str, Any]) -> None:
        """Write all of it, in one go, with a checksum.

        Args:
            path: The file to replace.
            configuration: What decides the numbers; plain JSON values.

        Raises:
            UserError: If the disk does not take it.
        """
        tensors = {f"right/{name}": values for name, values in self.right.items()}
        metadata = {"configuration": json.dumps(configuration)}
        metadata |= {name: json.dumps(getattr(self, name)) for name in ("finished", "results", "threads")}
        if self.unfinished is not None:
            metadata |= {"unfinished": self.unfinished.id, "warnings": json.dumps(self.unfinished.warnings)}
            tensors |= {f"unfinished/{name}": getattr(self.unfinished, name) for name in ("right", "loss", "done")}
        write_sealed(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path, configuration: Mapping[str, Any]) -> Measured:
        """Read what `save` wrote.

        Args:
            path: The file.
            configuration: That of the evaluation that goes on.

        Raises:
            UserError: If the file is damaged, or was written under another configuration.
        """
        tensors, metadata = read_sealed(path, _AGAIN)
        try:
            refuse_changes(json.loads(metadata["configuration"]), configuration, path.parent)
            unfinished = None
            if "unfinished" in metadata:
                part, loss, done = (tensors[f"unfinished/{name}"] for name in ("right", "loss", "done"))
                warnings = tuple(json.loads(metadata["warnings"]))
                unfinished = Unfinished(metadata["unfinished"], part, loss, done, warnings)
            right = {k.removeprefix("right/"): v for k, v in tensors.items() if k.startswith("right/")}
            finished, results = (tuple(json.loads(metadata[name])) for name in ("finished", "results"))
            threads = json.loads(metadata.get("threads", "null"))
        except (KeyError, json.JSONDecodeError) as error:
            raise UserError(f"{path} is no unfinished evaluation ({error} is missing or wrong); {_AGAIN}") from error
        return cls(finished, results, right, unfinished, threads)


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """See that an evaluation goes on as it was started.

    Args:
        before: The configuration that it was started with.
        now: The one that it is to go on with.
        folder: Where it lies.

    Raises:
        UserError: If they differ.
    """
    now = json.loads(json.dumps(now))  # tuples become lists, as in the file
    for name in (*before, *(name for name in now if name not in before)):
        if before.get(name) != now.get(name):
            came = f"was {_short(before.get(name))} there, got {_short(now.get(name))}"
            raise UserError(
                f"--resume goes on with the evaluation in {folder} as it was started: {name} {came}; "
                "--overwrite starts anew"
            )


def write_per_image(
    path: Path,
    right: Mapping[str, torch.Tensor],
    sample_ids: Mapping[str, torch.Tensor],
    weights_sha256: str,
    configuration: Mapping[str, Any],
) -> None:
    """Replace evaluation.safetensors in one go, as `save_per_image` writes it.

    Raises:
        UserError: If the disk does not take it.
    """
    with replace_file(path) as aside:
        save_per_image(aside, right, sample_ids, weights_sha256, configuration)


def save_per_image(
    path: Path,
    right: Mapping[str, torch.Tensor],
    sample_ids: Mapping[str, torch.Tensor],
    weights_sha256: str,
    configuration: Mapping[str, Any],
) -> None:
    """Write an evaluation.safetensors.

    Args:
        path: The file.
        right: uint8 (N,) by the id of the result.
        sample_ids: Positions in the split, int64 (N,) ascending, by measure.
        weights_sha256: Of the model, so that a stale file is noticed.
        configuration: What decided the numbers; plain JSON values.
    """
    # several measures may take the same images, and safetensors writes no memory twice
    ids = {f"{_SAMPLE_IDS}{measure}": positions.clone() for measure, positions in sample_ids.items()}
    metadata = {"weights_sha256": weights_sha256, "configuration": json.dumps(configuration)}
    save_sealed(path, {**right, **ids}, metadata)


def read_per_image(path: Path, weights_sha256: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Read evaluation.safetensors.

    Args:
        path: The file.
        weights_sha256: What the record says of the model.

    Returns:
        `right` by the id of the result, and `sample_ids` by measure.

    Raises:
        UserError: If the file is damaged or belongs to another record.
    """
    tensors, metadata = read_sealed(path, _AGAIN)
    if metadata.get("weights_sha256") != weights_sha256:
        raise UserError(f"{path} does not belong to the record beside it: its model has other weights; evaluate again")
    ids = {k.removeprefix(_SAMPLE_IDS): v for k, v in tensors.items() if k.startswith(_SAMPLE_IDS)}
    return {k: v for k, v in tensors.items() if not k.startswith(_SAMPLE_IDS)}, ids


def read_configuration(path: Path) -> dict[str, Any]:
    """What decided the numbers of an evaluation.safetensors.

    Args:
        path: The file.

    Raises:
        UserError: If it is damaged.
    """
    return json.loads(read_sealed(path, _AGAIN)[1].get("configuration", "{}"))


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
