"""What has to hold of a run before anything of it is sent: complete, finite, and its records speak of these weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from timm_asap.errors import UserError
from timm_asap.evaluation.models import weights_sha256
from timm_asap.hub.loading import load

__all__ = ["check_run", "sample_logits"]

_NEEDED = {
    "config.yaml": "expected the folder of a run, as train.py writes it",
    "model.safetensors": "its training has not finished: `python train.py --resume` with its flags",
    "config.json": "its training has not finished: `python train.py --resume` with its flags",
    "evaluation.json": "measure it first: `timm-asap evaluate {run} --dataset ...`",
}
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
    config, evaluation = read_json(run / "config.json"), read_json(run / "evaluation.json")
    _check_classes(run, config, evaluation)
    model = load(f"local-dir:{run}")
    if evaluation.get("model", {}).get("weights_sha256") != weights_sha256(model):
        raise UserError(
            f"{run}/evaluation.json was measured on other weights than {run}/model.safetensors: "
            f"`timm-asap evaluate {run} --overwrite` measures these"
        )
    logits = sample_logits(model)
    if tuple(logits.shape) != (_BATCH, config["num_classes"]):
        raise UserError(
            f"{run}: the model gives scores of shape {tuple(logits.shape)[1:]}, and no {config['num_classes']}"
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


def _check_classes(run: Path, config: dict[str, Any], evaluation: dict[str, Any]) -> None:
    classes, names = config.get("num_classes"), config.get("label_names")
    if names is not None and len(names) != classes:
        raise UserError(f"{run}/config.json names {len(names)} classes, and its num_classes is {classes}")
    if (run / "run.json").is_file():
        trained_on = read_json(run / "run.json").get("data", {}).get("classes")
        if trained_on != classes:
            raise UserError(f"{run}: the model tells {classes} classes apart, and run.json tells of {trained_on}")
    data = evaluation.get("data", {})
    of_data = set(data.get("label_names") or ())
    some = of_data and of_data < set(names or ())  # as ImageNet-A has 200 of the 1,000 classes
    if data.get("classes") != classes and not some:
        raise UserError(
            f"{run}: the model tells {classes} classes apart, and evaluation.json is of data with {data.get('classes')}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A record; raises UserError where it is no JSON object, or holds NaN or infinity, which JSON has not."""

    def refuse(constant: str) -> NoReturn:
        raise UserError(f"{path} holds {constant}: expected numbers that were measured")

    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(record).__name__}")
    return record
