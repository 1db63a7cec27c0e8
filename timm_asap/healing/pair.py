"""A trained network and its alias-free twin with the same weights, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models import get_arch_pretrained_cfgs, is_model, split_model_name_tag
from torch import nn

from timm_asap.errors import UserError, unknown_name
from timm_asap.zoo import is_twin

__all__ = ["load_pair"]


def load_pair(name: str, asap_kwargs: dict[str, Any]) -> tuple[nn.Module | None, nn.Module]:
    """A trained network and its twin with the same weights.

    Args:
        name: A run folder, `local-dir:` or `hf-hub:` and a name, or the name of a pretrained model of timm.
        asap_kwargs: `asap_*` keywords of the twin.

    Returns:
        The plain network (None if `name` is a twin already), and the twin.

    Raises:
        UserError: If there is no such model, it has no weights or no twin.
    """
    if ":" not in name and ("/" in name or "\\" in name or Path(name).is_dir()):
        name = f"local-dir:{name}"
    if ":" not in name:
        _check_name(name)
    model = _create(name, pretrained=True, **(asap_kwargs if is_twin(name) else {}))
    architecture = model.pretrained_cfg["architecture"]
    if is_twin(architecture):
        if asap_kwargs and not is_twin(name):
            given = ", ".join(key.replace("asap_", "--") for key in asap_kwargs)
            raise UserError(f"{name} is alias-free already, with options of its own: leave out {given}")
        return None, model
    twin_name = f"{architecture}_asap"
    if not is_twin(twin_name):
        raise UserError(f"{architecture} has no twin: `timm-asap list` shows the architectures that have one")
    arguments = {**model._model_args, "num_classes": model.num_classes, **asap_kwargs}
    own = {k: v for k, v in model.pretrained_cfg.items() if k not in ("architecture", "tag")}
    twin = _create(twin_name, pretrained=False, pretrained_cfg_overlay=own, **arguments)
    twin.load_state_dict(model.state_dict())
    return model, twin


def _check_name(name: str) -> None:
    architecture, tag = split_model_name_tag(name)
    if not is_model(architecture):
        raise UserError(unknown_name("model", name, timm.list_models()))
    tagged = get_arch_pretrained_cfgs(architecture)
    if tag and name not in tagged:
        raise UserError(unknown_name(f"tag of {architecture}", tag, [split_model_name_tag(t)[1] for t in tagged]))
    if not any(cfg.has_weights for cfg in tagged.values()):
        raise UserError(f"{architecture} has no pretrained weights: train it first, and give the run folder")


def _create(name: str, **kwargs: Any) -> nn.Module:
    try:
        return timm.create_model(name, **kwargs).eval()
    except (TypeError, ValueError, RuntimeError, OSError, AssertionError, KeyError) as error:
        # what timm and the Hub raise for weights that cannot be had, and for files that are no model
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"model {name} cannot be loaded: {first_line}") from error
