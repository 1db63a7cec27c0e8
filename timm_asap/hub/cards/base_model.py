"""The weights that a run started from: their name, source and license."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from timm.models import get_pretrained_cfg, is_model, split_model_name_tag

from timm_asap.zoo import is_shipped, is_twin, plain_name

__all__ = ["UNKNOWN_LICENSE", "Origin", "find_origin"]

UNKNOWN_LICENSE = "that-of-"
"""Begins the name of a license that a card could not tell."""

# Keywords of `timm.create_model` that bring other weights than those of the name.
_OTHER_WEIGHTS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
_UNSTATED = (None, "", "unknown", "other")
_NAME = re.compile(r"[\w.+() -]{1,100}")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
# Licenses that timm states and the Hub knows by the same identifier; it takes every other one as "other", with a name.
# Source: https://huggingface.co/docs/hub/repositories-licenses
_KNOWN_TO_THE_HUB = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gemma"})


@dataclass(frozen=True)
class Origin:
    """Weights that others, or an earlier run, trained.

    Args:
        name: For a reader.
        hub_id: Their repository on the Hugging Face Hub; None where they are not there.
        license: As it is stated; None where it is not.
        is_identifier: Whether the Hub knows it by that name.
        stated_by: Who states it.
    """

    name: str
    hub_id: str | None
    license: str | None
    is_identifier: bool = True
    stated_by: str = ""

    @property
    def link(self) -> str | None:
        """Address of their repository."""
        return None if self.hub_id is None else f"https://huggingface.co/{self.hub_id}"

    def __str__(self) -> str:
        if self.link is None or self.hub_id is None:
            return f"`{self.name}`"
        link = f"[{self.hub_id}]({self.link})"
        return link if self.hub_id.endswith(self.name) else f"`{self.name}` (which started from {link})"


def find_origin(model: str, pretrained: bool, model_kwargs: Mapping[str, Any] | None = None) -> Origin | None:
    """Where a run's first weights come from.

    Args:
        model: As train.py or `timm-asap heal` was told: architecture.tag, hf-hub:NAME, local-dir:FOLDER or a folder.
        pretrained: Whether it started from that model's weights.
        model_kwargs: Further keywords of `timm.create_model`.

    Returns:
        None where it started from random weights.
    """
    if named := [name for name in _OTHER_WEIGHTS if (model_kwargs or {}).get(name)]:
        return Origin(f"the weights that {named[0]} names", None, None)
    if not pretrained:
        return None
    source, _, place = model.rpartition(":")
    if source in ("hf-hub", "hf_hub"):
        repo = place.partition("@")[0]
        return Origin(repo, repo, None)
    architecture = split_model_name_tag(model)[0]
    if source == "local-dir" or not is_model(architecture):
        return _from_folder(Path(place).expanduser())
    return _from_timm(model)


def _from_timm(model: str) -> Origin:
    cfg = get_pretrained_cfg(model, allow_unregistered=True)
    ours = is_shipped(model)
    architecture, tag = split_model_name_tag(plain_name(model) if is_twin(model) and not ours else model)
    tag = tag or (cfg.tag if cfg else None)
    license = cfg.license if cfg else None
    return Origin(
        name=f"{architecture}.{tag}" if tag else architecture,
        hub_id=(cfg.hf_hub_id or None) if cfg else None,
        license=None if license in _UNSTATED else license,
        is_identifier=license in _KNOWN_TO_THE_HUB,
        stated_by="timm_asap" if ours else "timm",
    )


def _from_folder(folder: Path) -> Origin:
    """What the card in a run folder says of its license, if the folder is still there."""
    name = folder.name or folder.resolve().name
    try:
        data: Any = ModelCard((folder / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except (OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError):
        return Origin(name, None, None)
    license, is_identifier = data.license, True
    if license == "other" and not str(data.license_name).startswith(UNKNOWN_LICENSE):
        license, is_identifier = data.license_name, False
    # a stranger may have written that card: what is no name stays out of this one
    license = license if isinstance(license, str) and _NAME.fullmatch(license) else None
    base = data.base_model if isinstance(data.base_model, str) and _REPO.fullmatch(data.base_model) else None
    return Origin(name, base, None if license in _UNSTATED else license, is_identifier, f"the card of {name}")
