"""What has to hold of a run before anything of it is sent: complete, finite, and its records speak of these weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_asap._io import read_json
from timm_asap.errors import UserError, first_line
from timm_asap.evaluation.models import weights_sha256
from timm_asap.zoo import load
from timm_asap.zoo.model_config import read_model_config

__all__ = ["check_run", "sample_logits"]

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
        size = " x ".join(map(str, model.pretrained_cfg["input_size"]))
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
    images = torch.randn(_BATCH, *model.pretrained_cfg["input_size"], generator=generator)
    with torch.no_grad():
        return model.eval()(images)


def _check_classes(run: Path, classes: int, names: tuple[str, ...] | None, evaluation: dict[str, Any]) -> None:
    if (run / "run.json").is_file():
        trained_on = _object(read_json(run / "run.json"), "data").get("classes")
        if trained_on != classes:
            raise UserError(f"{run}: the model tells {classes} classes apart, and run.json tells of {trained_on}")
    data = _object(evaluation, "data")
    listed = data.get("label_names")
    of_data = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    some = of_data and of_data < set(names or ())  # as ImageNet-A has 200 of the 1,000 classes
    if data.get("classes") != classes and not some:
        raise UserError(
            f"{run}: the model tells {classes} classes apart, and evaluation.json is of data with {data.get('classes')}"
        )


def _object(record: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a record; empty where it is none, so that what is looked for in it is missing."""
    part = record.get(key)
    return part if isinstance(part, dict) else {}
