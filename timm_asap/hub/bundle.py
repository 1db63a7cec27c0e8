"""The files of a run that are published, put together in a folder of their own."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from timm_asap._io import is_leftover, sha256
from timm_asap._lock import LOCK_FILES
from timm_asap.errors import UserError
from timm_asap.hub.card import write_card
from timm_asap.hub.cards.privacy import refuse_token_in_file
from timm_asap.hub.checks import check_card, check_run
from timm_asap.hub.edits import stamp
from timm_asap.training.command_line import cut_path

__all__ = ["Bundle", "make_bundle"]

CARD = "README.md"
# Checkpoints are resumable state, and evaluation.safetensors (which image was right) would look like weights.
_FILES = (
    *("model.safetensors", "config.json", CARD),
    *("evaluation.json", "comparison.json", "run.json", "result.json", "metrics.jsonl"),
)
_PLOTS = "plots"
_PICTURES = (".png", ".svg")
_RECIPE = "config.yaml"
# What a run writes for itself: not sent, and not worth a word.
_OWN = frozenset(
    {
        *(*_FILES, _RECIPE, _PLOTS, "checkpoints", "publish", "tracker"),
        *("evaluation.safetensors", "evaluation.partial.safetensors"),
    }
)
_METRICS_LIMIT = 1_000_000  # bytes; a line per epoch stays far below


@dataclass(frozen=True, eq=False)
class Bundle:
    """What is sent.

    Args:
        run: The run's folder.
        repo: Where it goes; None for a rehearsal without a name.
        folder: Where the files lie.
        sha256: The digest of each file, by its path in the repository.
        logits: Scores that the model gives to seeded noise.
        card_before: The run's card as it was; empty if there was none.
        left_out: What else the run's folder holds, each with the reason why it is not sent.
    """

    run: Path
    repo: str | None
    folder: Path
    sha256: dict[str, str]
    logits: torch.Tensor
    card_before: str
    left_out: tuple[str, ...]

    @property
    def card(self) -> str:
        """The text of README.md."""
        return (self.folder / CARD).read_text(encoding="utf-8")

    def with_sections(self, kept: Mapping[str, str]) -> Bundle:
        """The same with other user-edited sections in its card, which the run's card gets, too."""
        write_card(self.run, repo=self.repo, kept=kept)
        _copy(self.run, CARD, self.folder)
        return replace(self, sha256={**self.sha256, CARD: _finish_card(self.folder)})


def make_bundle(run: Path, folder: Path, repo: str | None = None) -> Bundle:
    """Check a run, write its card anew, and copy what is published.

    Regular files of the run alone are copied: a link is never followed, and what the run did not write is left out.
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
    card_before = (run / CARD).read_text(encoding="utf-8", errors="replace") if (run / CARD).is_file() else ""
    write_card(run, repo=repo)
    check_card((run / CARD).read_text(encoding="utf-8"))
    left_out = []
    for name in _FILES:
        if (why := _copy(run, name, folder)) is not None:
            left_out.append(f"{name} ({why})")
    metrics = folder / "metrics.jsonl"
    if metrics.is_file() and metrics.stat().st_size > _METRICS_LIMIT:
        metrics.unlink()
        left_out.append(f"metrics.jsonl (over {_METRICS_LIMIT:,} bytes)")
    left_out += _copy_plots(run, folder)
    left_out += sorted(f"{path.name} (no file of a run)" for path in run.iterdir() if _is_strange(path.name))
    (folder / _RECIPE).write_text(_recipe(run / _RECIPE), encoding="utf-8")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        refuse_token_in_file(name, path)
    digests = {name: sha256(path) for name, path in files.items()}
    return Bundle(run, repo, folder, {**digests, CARD: _finish_card(folder)}, logits, card_before, tuple(left_out))


def _finish_card(folder: Path) -> str:
    """Stamp the card with the digests of what it is published with; its own digest."""
    card = folder / CARD
    others = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path != card
    }
    card.write_text(stamp(card.read_text(encoding="utf-8"), others), encoding="utf-8")
    return sha256(card)


def _copy_plots(run: Path, folder: Path) -> list[str]:
    plots = run / _PLOTS
    if plots.is_symlink():
        return [f"{_PLOTS} (a link)"]
    if not plots.is_dir():
        return []
    (folder / _PLOTS).mkdir()
    left_out = []
    for path in sorted(plots.iterdir()):
        name = f"{_PLOTS}/{path.name}"
        why = _copy(run, name, folder) if path.suffix in _PICTURES else "no picture"
        if why is not None:
            left_out.append(f"{name} ({why})")
    return left_out


def _copy(run: Path, name: str, folder: Path) -> str | None:
    """Copy a regular file of the run if there is one; why it was left out, if it is anything else."""
    try:
        state = (run / name).lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(state.st_mode):
        return "a link"
    if not stat.S_ISREG(state.st_mode):
        return "no file" if not stat.S_ISDIR(state.st_mode) else "a folder"
    # a link that takes the file's place meanwhile is not followed either
    descriptor = os.open(run / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with open(descriptor, "rb") as source, open(folder / name, "wb") as target:
        shutil.copyfileobj(source, target)
    return None


def _is_strange(name: str) -> bool:
    return name not in _OWN | LOCK_FILES and not is_leftover(name)


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
