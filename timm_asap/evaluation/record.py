"""evaluation.json: what was measured, of what, on what, and with what."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from timm_asap._io import cut_path, disk_errors, read_json
from timm_asap._types import present
from timm_asap.data.splits import counted
from timm_asap.errors import UserError
from timm_asap.evaluation.models import OpenedModel, short_name
from timm_asap.evaluation.per_image import read_per_image
from timm_asap.evaluation.record_schema import record_problem
from timm_asap.evaluation.sources import MeasuredData
from timm_asap.evaluation.statistics import (
    WILSON,
    below_chance,
    corruption_accuracy,
    corruption_cells,
    corruption_errors,
    mean_corruption_error,
    wilson_interval,
)

__all__ = ["PER_IMAGE", "RECORD", "Record", "describe_data", "describe_model", "read_record", "summarize"]

RECORD = "evaluation.json"
PER_IMAGE = "evaluation.safetensors"

VERSION = 1
"""Of the layout of the record."""

_PARTS = ("version", "model", "data", "results", "summary")


@dataclass(frozen=True, eq=False)
class Record:
    """An evaluation as it lies on the disk.

    Args:
        path: Its evaluation.json.
        content: That file.
    """

    path: Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """The model's name, short enough for a heading."""
        return short_name(self.content["model"]["name"])

    def per_image(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] | None:
        """What each image did, and which images; None where the file is missing."""
        path = self.path.with_name(PER_IMAGE)
        if not path.is_file():
            return None
        right, sample_ids = read_per_image(path, self.content["model"]["weights_sha256"])
        for result in self.content["results"]:
            found = right.get(result["id"])
            if result["measure"] != "aliasing" and (found is None or found.shape != (result["images"],)):
                raise UserError(f"{path} does not belong to the record beside it: {result['id']}; evaluate again")
        return right, sample_ids


def read_record(path: Path | str, *, whole: bool = False) -> Record:
    """Read an evaluation.

    Args:
        path: An evaluation.json, or the folder that holds one.
        whole: Expect all that this package writes, not only what a comparison needs.

    Raises:
        UserError: If there is none, it is no evaluation, or it is damaged.
    """
    path = Path(path).expanduser()
    with disk_errors(f"{path} cannot be read"):
        path = path / RECORD if path.is_dir() else path
    content = read_json(path, "what timm-asap evaluate wrote", "record of an evaluation")
    if missing := [part for part in _PARTS if part not in content]:
        raise UserError(f"{path} is no record of an evaluation: {missing[0]} is missing in it")
    if content["version"] != VERSION:
        raise UserError(f"{path} has version {content['version']}: this timm_asap reads version {VERSION}")
    if problem := record_problem(content, whole):
        raise UserError(f"{path} is damaged: {problem}; evaluate again with --overwrite")
    return Record(path, content)


def describe_model(opened: OpenedModel) -> dict[str, Any]:
    """The record's `model`."""
    return {
        "name": _shown_name(opened),
        "architecture": opened.architecture,
        "asap": opened.asap,
        "parameters": opened.parameters,
        "weights_sha256": opened.weights_sha256,
        "input_size": list(opened.pixels.size),
        "mean": list(opened.pixels.mean),
        "std": list(opened.pixels.std),
    }


def describe_data(data: MeasuredData, hub_id: str | None) -> dict[str, Any]:
    """The record's `data`."""
    name = data.dataset.name
    return {
        "name": name if hub_id is not None else Path(name).name,
        "hub_id": hub_id,
        "source": data.dataset.source,
        "split": data.split_name,
        "images": len(counted(data.split)),
        "labels_sha256": data.labels_sha256,
        "classes": data.dataset.num_classes,
        "label_names": list(data.dataset.label_names),
    }


def summarize(
    results: Sequence[Mapping[str, Any]], warnings: list[str], reference: Record | None, classes: int
) -> dict[str, Any]:
    """The record's `summary`.

    Args:
        results: All entries.
        warnings: Of gradient masking.
        reference: Record of the model to give mCE against; one that `check_reference` has seen.
        classes: How many classes the data have.
    """
    clean = next((r["accuracy"] for r in results if r["measure"] == "clean"), None)
    doubt = next((below_chance(r["accuracy"], r["images"], classes) for r in results if r["measure"] == "clean"), None)
    cells = corruption_cells(results)
    summary: dict[str, Any] = {
        "clean_accuracy": clean,
        "corruption_accuracy": None if cells is None else corruption_accuracy(cells),
        "mce": None,
        "mce_reference": None,
        "corruption_errors": None,
        "gradient_masking": warnings,
        "below_chance": doubt,
    }
    if reference is not None and cells is not None:
        errors = corruption_errors(cells, present(corruption_cells(reference.content["results"]), "corruption there"))
        summary["mce"] = mean_corruption_error(errors)
        summary["mce_reference"] = f"{reference.name}, weights {reference.content['model']['weights_sha256'][:12]}"
        summary["corruption_errors"] = errors
    return summary


def clean_of_attacked(
    right: Mapping[str, torch.Tensor], sample_ids: Mapping[str, torch.Tensor]
) -> dict[str, Any] | None:
    """What the attacked images are before the attack: the point that a curve over eps starts from.

    Args:
        right: uint8 (N,) by the id of the result, 1 where an image was right.
        sample_ids: Positions in the split, by measure.

    Returns:
        Accuracy in percent, its interval and the number of images; None where either was not measured.
    """
    if "clean" not in right or not {"clean", "attack"} <= set(sample_ids):
        return None
    attacked = torch.isin(sample_ids["clean"], sample_ids["attack"])
    images, correct = int(attacked.sum()), int(right["clean"][attacked].sum())
    if images == 0 or images < len(sample_ids["attack"]):
        return None
    return {
        "accuracy": 100 * correct / images,
        "interval": list(wilson_interval(correct, images)),
        "images": images,
    }


def check_reference(reference: Record, data: Mapping[str, Any], table: str, seed: int | None, images: int) -> None:
    """See that mCE can be given against a record, before anything is measured.

    Args:
        reference: The record.
        data: The record's `data` of the evaluation to come.
        table: Its parameters of the corruptions.
        seed: Of its corruptions.
        images: How many it will measure them on.

    Raises:
        UserError: If it was made of other images, another table or another seed, or lacks a corruption.
    """
    where = f"--reference {reference.path}"
    cells = corruption_cells(reference.content["results"])
    if cells is None:
        raise UserError(f"{where} does not hold the 15 corruptions at severities 1 to 5: evaluate its model on them")
    its = reference.content["data"]
    for key in ("name", "split", "images", "labels_sha256"):
        if its.get(key) != data[key]:
            raise UserError(f"{where} was measured on other data: its {key} is {its.get(key)}, here it is {data[key]}")
    for key, wanted in (("table", table), ("seed", seed), ("images", images)):
        if came := [cell[key] for cell in cells.values() if cell[key] != wanted]:
            raise UserError(f"{where} has corruptions of {key} {came[0]}, here it is {wanted}: expected the same")


def produced_by(command: str, hardware: str, processes: int, batch_size: int, versions: Mapping[str, str]) -> dict:
    """The record's `produced_by`."""
    return {
        "command": command,
        "versions": dict(versions),
        "commit": _commit(),
        "hardware": hardware,
        "processes": processes,
        "batch_size": batch_size,
    }


def compose(
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    produced: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole record."""
    return {
        "version": VERSION,
        "model": model,
        "data": data,
        "produced_by": produced,
        "interval": WILSON,
        "results": results,
        "summary": summary,
    }


def attack_versions() -> dict[str, str]:
    """The version of pyautoattack, where it is installed."""
    try:
        return {"pyautoattack": version("pyautoattack")}
    except PackageNotFoundError:
        return {}


def _shown_name(opened: OpenedModel) -> str:
    """For others to read: a folder above or around this one by its own name."""
    if opened.folder is not None and Path(opened.name).name in ("", ".."):
        return opened.folder.resolve().name
    return cut_path(opened.name)


def _commit() -> str | None:
    """The commit of this package's checkout, with -dirty where it was changed; None for an installed package."""
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None
    words = ["git", "-C", str(package.parent), "describe", "--always", "--abbrev=40", "--match", "", "--dirty"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
