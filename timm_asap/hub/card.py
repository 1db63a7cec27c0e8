"""The model card: rendered from the records of a run, so that every number in it was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from timm_asap.errors import UserError
from timm_asap.training.files import replace_text
from timm_asap.training.run_folder import RunFolder


def write_card(run_folder: Path, license: str = "mit") -> Path:
    """Write README.md of a run: what the model is, how it was trained, what it reached, how to use it.

    Args:
        run_folder: A folder that `timm_asap.training.train` wrote.
        license: Licence of the weights, as an identifier of the Hugging Face Hub.

    Returns:
        The path of the card.

    Raises:
        UserError: If a record of the run is missing.
    """
    records = _read_records(Path(run_folder))
    template = _templates().get_template("card.md.jinja")
    metadata = _metadata(records, license).to_yaml(line_break="\n")
    text = template.render(metadata=metadata, **records)
    path = Path(run_folder) / "README.md"
    replace_text(path, text)
    return path


def _read_records(path: Path) -> dict[str, Any]:
    """What the template shows, from config.yaml, config.json, run.json and metrics.jsonl."""
    folder = RunFolder(path)
    try:
        config = yaml.safe_load(folder.config_yaml.read_text(encoding="utf-8"))
        facts = json.loads(folder.run_json.read_text(encoding="utf-8"))
        model = json.loads((path / "config.json").read_text(encoding="utf-8"))
        epochs = folder.metrics()
    except FileNotFoundError as error:
        raise UserError(f"{path} holds no finished run: {Path(error.filename).name} is missing") from error
    if not epochs:
        raise UserError(f"{path} holds no finished run: metrics.jsonl has no line")
    return {
        "name": f"{model['architecture']}.{Path(facts['data']['name']).name}",
        "config": config,
        "facts": facts,
        "model": model,
        "final": _final(folder, epochs),
        "minutes": sum(epoch["seconds"] for epoch in epochs) / 60,
        "is_twin": model["architecture"].endswith("_asap"),
        "pixels": model["pretrained_cfg"],
        "load_line": RunFolder(Path(path.name) if path.is_absolute() else path).load_line,
    }


def _final(folder: RunFolder, epochs: list[dict[str, Any]]) -> dict[str, Any]:
    """The last epoch's record, with what the exported weights reached on the test split."""
    try:
        return {**epochs[-1], **folder.result()}
    except FileNotFoundError as error:
        raise UserError(f"{folder.path} holds no finished run: result.json is missing") from error


def _metadata(records: dict[str, Any], license: str) -> ModelCardData:
    """The typed front matter that the Hub reads."""
    data = records["facts"]["data"]
    result = EvalResult(
        task_type="image-classification",
        dataset_type=data["hub_id"] or data["name"],
        dataset_name=data["name"],
        dataset_split=data["test_name"],
        metric_type="accuracy",
        metric_name="accuracy (percent)",
        metric_value=round(records["final"]["test_accuracy"], 2),
    )
    tags = ["timm", "image-classification"]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=[*tags, "timm_asap", "anti-aliasing"] if records["is_twin"] else tags,
        license=license,
        datasets=[data["hub_id"]] if data["hub_id"] else None,
        metrics=["accuracy"],
        model_name=records["name"],
        eval_results=[result],
    )


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("timm_asap.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the card is Markdown
    )
