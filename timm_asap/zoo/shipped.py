"""The weights that come with the package: which there are, and what timm must know of them.

`weights/ARCHITECTURE.TAG.safetensors` holds a trained network, and the JSON beside it the `config.json` that its run
exported; its card is `timm_asap/model_cards/ARCHITECTURE.TAG.md`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from timm.models import split_model_name_tag
from timm.models._pretrained import PretrainedCfg

__all__ = ["WEIGHTS", "is_adapted", "is_shipped", "shipped_cfgs"]

WEIGHTS = Path(__file__).with_name("weights")


def shipped_cfgs(architecture: str) -> dict[str, PretrainedCfg]:
    """Pretrained configurations of the weights that are shipped of an architecture, by tag.

    Args:
        architecture: Without a tag.
    """
    found = {split_model_name_tag(name): cfg for name, cfg in _all_cfgs().items()}
    return {tag: cfg for (name, tag), cfg in found.items() if name == architecture}


def is_shipped(name: str) -> bool:
    """Whether the weights of a name, `architecture.tag`, come with this package, made as that architecture."""
    return name in _all_cfgs()


def is_adapted(name: str) -> bool:
    """Whether shipped weights were adapted from upstream's, without labels, rather than trained."""
    return is_shipped(name) and bool(_config(WEIGHTS / f"{name}.json").get("adapted_from"))


@cache
def _all_cfgs() -> dict[str, PretrainedCfg]:
    return {path.stem: _pretrained_cfg(path) for path in sorted(WEIGHTS.glob("*.json"))}


def _pretrained_cfg(path: Path) -> PretrainedCfg:
    config = _config(path)
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in config["pretrained_cfg"].items()}
    return PretrainedCfg(
        **settings,
        file=str(path.with_suffix(".safetensors")),
        label_names=tuple(config["label_names"]),
        license=config.get("license", "mit"),
    )


def _config(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
