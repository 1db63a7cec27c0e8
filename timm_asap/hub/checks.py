"""Checks before anything is sent to the Hub: of the run, and of its card.

A run must be complete and finite, and its records must speak of the same weights. The card's front matter must say the
same after a trip through YAML, as the Hub will read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard
from torch import nn

from timm_asap._io import read_json
from timm_asap._types import pretrained_cfg_of
from timm_asap.errors import UserError, first_line
from timm_asap.evaluation.models import weights_sha256
from timm_asap.zoo import load
from timm_asap.zoo.model_config import read_model_config

__all__ = ["check_card", "check_run", "sample_logits"]


_NEEDED = {
    "config.yaml": "expected the folder of a run, as train.py writes it",
    "model.safetensors": "its training has not finished: `python train.py --resume` with its flags",
    "config.json": "its training has not finished: `python train.py --resume` with its flags",
    "evaluation.json": "measure it first: `timm-asap evaluate {run} --dataset ...`",
}
# What else the card shows something of.
_SHOWN = ("README.md", "run.json", "result.json", "metrics.jsonl", "comparison.json", "heal.json")
_BATCH = 4


def check_run(run: Path) -> torch.Tensor:
    """See that a run can be published.

    Args:
        run: The run's folder.

    Returns:
        `sample_logits` of its model.

    Raises:
        UserError: If a file is missing, the model cannot be loaded or gives no finite scores, the counts of classes
            differ, or the evaluation is of other weights.
    """
    if not run.is_dir():
        raise UserError(f"there is no folder {run}: expected a run folder")
    for file, what_to_do in _NEEDED.items():
        if not (run / file).is_file():
            raise UserError(f"{run} has no {file}: {what_to_do.format(run=run)}")
    for file in (*_NEEDED, *_SHOWN):
        if (run / file).is_symlink():
            raise UserError(f"{run / file} is a link: expected a file of the run itself; put a copy in its place")
    config, evaluation = read_model_config(run / "config.json", str(run)), read_json(run / "evaluation.json")
    if not config.num_classes:
        raise UserError(f"{run}/config.json: num_classes: expected a whole number above 0, got {config.num_classes}")
    _check_classes(run, config.num_classes, config.label_names, evaluation)
    model = load(f"local-dir:{run}")
    if _object(evaluation, "model").get("weights_sha256") != weights_sha256(model):
        raise UserError(
            f"{run}/evaluation.json was measured on other weights than {run}/model.safetensors: "
            f"`timm-asap evaluate {run} --overwrite` measures these"
        )
    try:
        logits = sample_logits(model)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        size = " x ".join(map(str, pretrained_cfg_of(model)["input_size"]))
        raise UserError(f"{run}: the model cannot take images of {size}: {first_line(error)}") from error
    if tuple(logits.shape) != (_BATCH, config.num_classes):
        raise UserError(
            f"{run}: the model gives scores of shape {tuple(logits.shape)[1:]}, and no {config.num_classes}"
        )
    if not logits.isfinite().all():
        raise UserError(f"{run}: the model gives NaN or infinity; its training diverged")
    return logits


def sample_logits(model: nn.Module) -> torch.Tensor:
    """Scores of four images of seeded noise, (4, classes): on one machine equal bit for bit for equal weights."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_BATCH, *pretrained_cfg_of(model)["input_size"], generator=generator)
    with torch.no_grad():
        return model.eval()(images)


def _check_classes(run: Path, classes: int, names: tuple[str, ...] | None, evaluation: dict[str, Any]) -> None:
    if (run / "run.json").is_file():
        trained_on = _object(read_json(run / "run.json"), "data").get("classes")
        if trained_on != classes:
            raise UserError(f"{run}: the model has {classes} classes, and run.json tells of {trained_on}")
    data = _object(evaluation, "data")
    listed = data.get("label_names")
    of_data = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    some = of_data and of_data < set(names or ())  # as ImageNet-A has 200 of the 1,000 classes
    if data.get("classes") != classes and not some:
        raise UserError(
            f"{run}: the model has {classes} classes, and evaluation.json is of data with {data.get('classes')}"
        )


def _object(record: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a record; empty where it is none, so that what is looked for in it is missing."""
    part = record.get(key)
    return part if isinstance(part, dict) else {}


_CARD_CHECK_NEEDED = ("library_name", "pipeline_tag", "license", "tags")


def check_card(text: str) -> None:
    """See that the metadata of a card can be read back.

    Args:
        text: The card: front matter between lines of `---`, then Markdown.

    Raises:
        UserError: If the front matter is missing or no plain YAML (a NumPy or torch scalar becomes a Python object that
            no reader loads), holds NaN or infinity, lacks what every card states, or has a `model-index` that the
            Hub's client refuses.
    """
    front, body = _split(text)
    try:
        metadata = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise UserError(
            f"README.md: its metadata cannot be read back as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(metadata, dict):
        raise UserError(f"README.md: expected 'key: value' lines as metadata, got a {type(metadata).__name__}")
    for place, value in _values(metadata):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"README.md: its metadata holds {value} at {place}: expected a number that was measured")
    if missing := [key for key in _CARD_CHECK_NEEDED if not metadata.get(key)]:
        raise UserError(f"README.md: its metadata lacks {', '.join(missing)}")
    try:
        again = ModelCard(text).data.to_dict()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"README.md: the Hub would refuse its metadata: {' '.join(str(error).split())}") from error
    if lost := [key for key in metadata if key not in again]:
        raise UserError(f"README.md: its metadata would lose {', '.join(lost)} on the way to the Hub")
    if not body.strip():
        raise UserError("README.md holds metadata and no text")


def _split(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    marks = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if len(marks) < 2 or marks[0] != 0:
        raise UserError("README.md has no metadata: expected it to begin with lines between two of '---'")
    return "".join(lines[1 : marks[1]]), "".join(lines[marks[1] + 1 :])


def _values(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of the metadata, with the keys that lead to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _values(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _values(value, f"{place}[{number}]")
    else:
        yield place, node
