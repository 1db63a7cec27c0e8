"""The files of a run that are published, put together in a folder of their own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from timm_asap.errors import UserError
from timm_asap.hub.card import write_card
from timm_asap.hub.card_check import check_card
from timm_asap.hub.cards.privacy import refuse_token
from timm_asap.hub.run_checks import check_run
from timm_asap.training.command_line import cut_path
from timm_asap.zoo.downloads import sha256

__all__ = ["Bundle", "make_bundle"]

# Checkpoints are resumable state, and evaluation.safetensors (which image was right) would look like weights.
_FILES = (
    *("model.safetensors", "config.json", "README.md"),
    *("evaluation.json", "comparison.json", "run.json", "result.json", "metrics.jsonl"),
)
_PICTURES = (".png", ".svg")
_METRICS_LIMIT = 1_000_000  # bytes; a line per epoch stays far below


@dataclass(frozen=True, eq=False)
class Bundle:
    """What is sent.

    Args:
        folder: Where the files lie.
        sha256: The digest of each file, by its path in the repository.
        logits: Scores that the model gives to seeded noise.
    """

    folder: Path
    sha256: dict[str, str]
    logits: torch.Tensor


def make_bundle(run: Path, folder: Path, repo: str | None = None) -> Bundle:
    """Check a run, write its card anew, and copy what is published.

    The same run gives the same bytes. The recipe is the run's config.yaml without the folders that only this machine
    has.

    Args:
        run: The run's folder.
        folder: An empty folder.
        repo: Where it is published to: the card's lines load it from there.

    Raises:
        UserError: If the run is not fit to be published.
    """
    logits = check_run(run)
    write_card(run, repo=repo)
    check_card((run / "README.md").read_text(encoding="utf-8"))
    for name in _FILES:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    if (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size > _METRICS_LIMIT:
        (folder / "metrics.jsonl").unlink()
    for picture in sorted((run / "plots").glob("*")):
        if picture.suffix in _PICTURES:
            (folder / "plots").mkdir(exist_ok=True)
            shutil.copyfile(picture, folder / "plots" / picture.name)
    (folder / "config.yaml").write_text(_recipe(run / "config.yaml"), encoding="utf-8")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        if path.suffix not in (*_PICTURES, ".safetensors"):
            refuse_token(name, path.read_text(encoding="utf-8"))
    return Bundle(folder, {name: sha256(path) for name, path in files.items()}, logits)


def _recipe(config_yaml: Path) -> str:
    try:
        fields = yaml.safe_load(config_yaml.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{config_yaml} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{config_yaml}: expected 'key: value' lines, got a {type(fields).__name__}")
    fields.pop("output", None)
    shown = {key: cut_path(value) if isinstance(value, str) else value for key, value in fields.items()}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
