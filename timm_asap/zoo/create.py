"""`timm.create_model` for names that a user typed: what is wrong with one is said in one line."""

from __future__ import annotations

from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, split_model_name_tag
from torch import nn

from timm_asap.errors import UserError, first_line, unknown_name

# What timm and the Hub raise for weights that cannot be had, for files that are no model, and for keywords that a model
# does not take.
_ERRORS = (TypeError, ValueError, RuntimeError, OSError, AssertionError, KeyError, SafetensorError)


def check_model_name(name: str, kind: str = "model", *, pretrained: bool = False) -> None:
    """Find an unknown architecture or tag without building anything.

    Args:
        name: `architecture` or `architecture.tag`; names with a source, such as hf-hub:NAME, are not looked at.
        kind: What to call it in an error.
        pretrained: It must have weights, too.

    Raises:
        UserError: If there is no such model.
    """
    if ":" in name:
        return
    architecture, tag = split_model_name_tag(name)
    if not is_model(architecture):
        raise UserError(unknown_name(kind, name, timm.list_models()))
    tagged = get_arch_pretrained_cfgs(architecture)
    if tag and name not in tagged:
        raise UserError(unknown_name(f"tag of {architecture}", tag, [split_model_name_tag(t)[1] for t in tagged]))
    if pretrained and not get_pretrained_cfg(name).has_weights:
        have = [known for known, cfg in tagged.items() if cfg.has_weights and known != name]
        if have:
            shown = ", ".join(have[:5]) + (f" and {len(have) - 5} more" if len(have) > 5 else "")
            raise UserError(f"{name} has no pretrained weights; with weights: {shown}")
        raise UserError(f"{name} has no pretrained weights: train it first, and give the run folder")


def create_model(name: str, shown: str | None = None, kind: str = "model", **kwargs: Any) -> nn.Module:
    """As `timm.create_model`.

    Args:
        name: Of the model.
        shown: What to call it in an error, where it is not its name.
        kind: Likewise.
        **kwargs: Keywords of `timm.create_model`.

    Raises:
        UserError: If it cannot be had.
    """
    try:
        return timm.create_model(name, **kwargs)
    except UserError:
        raise
    except _ERRORS as error:
        raise UserError(f"{kind} {shown or name} cannot be loaded: {first_line(error)}") from error
