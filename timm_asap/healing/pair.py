"""A trained network and its alias-free twin with the same weights, by name."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from timm_asap.errors import UserError
from timm_asap.zoo import check_model_name, create_model, is_twin, model_folder
from timm_asap.zoo.asap_twins import UpstreamWeightsWarning

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
    name = model_folder(name)
    check_model_name(name, pretrained=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UpstreamWeightsWarning)  # what it asks for is being done
        model = create_model(name, pretrained=True, **(asap_kwargs if is_twin(name) else {})).eval()
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
    twin = create_model(twin_name, pretrained_cfg_overlay=own, **arguments).eval()
    twin.load_state_dict(model.state_dict())
    return model, twin
