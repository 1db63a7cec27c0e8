"""The weights that come with the package: which there are, and what timm must know of them.

`weights/ARCHITECTURE.TAG.safetensors` holds a trained network, and the JSON beside it the `config.json` that its run
exported; its card is `ARCHITECTURE.TAG.md` of the folder `model_cards`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from timm.models import split_model_name_tag

from timm_asap._timm import PretrainedCfg

__all__ = ["WEIGHTS", "is_adapted", "is_shipped", "model_cards", "shipped_cfgs"]

WEIGHTS = Path(__file__).with_name("weights")


def model_cards() -> Path:
    """The folder of the cards of trained models, which holds the templates of every card in `templates`.

    It lies inside an installed package; in a checkout, for an editable installation too, it lies beside the package.
    """
    package = Path(__file__).parents[1]
    installed = package / "model_cards"
    return installed if (installed / "templates").is_dir() else package.parent / "model_cards"


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
    settings: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in config["pretrained_cfg"].items()
    }
    return PretrainedCfg(
        **settings,
        file=str(path.with_suffix(".safetensors")),
        label_names=tuple(config["label_names"]),
        license=config.get("license", "mit"),
    )


def _config(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
