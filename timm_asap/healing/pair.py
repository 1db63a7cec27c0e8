"""The plain network and its twin with the same weights: by name, of a converted network, and blended by degrees."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from timm_asap._types import pretrained_cfg_of, undeclared
from timm_asap.conversion.strided import detach, is_converted
from timm_asap.errors import UserError
from timm_asap.zoo import check_model_name, create_model, is_twin, model_folder
from timm_asap.zoo.asap_twins import UpstreamWeightsWarning

__all__ = ["Blend", "load_pair", "plain_copy"]


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a converted model, with the same weights and its strided layers as they were before.

    Args:
        model: A model that `timm_asap.convert` converted.
    """
    plain = copy.deepcopy(model)
    for layer in plain.modules():
        if is_converted(layer):
            detach(layer)
    return plain


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
    architecture = pretrained_cfg_of(model)["architecture"]
    if is_twin(architecture):
        if asap_kwargs and not is_twin(name):
            given = ", ".join(key.replace("asap_", "--") for key in asap_kwargs)
            raise UserError(f"{name} is alias-free already, with options of its own: leave out {given}")
        return None, model
    twin_name = f"{architecture}_asap"
    if not is_twin(twin_name):
        raise UserError(f"{architecture} has no twin: `timm-asap list` shows the architectures that have one")
    arguments = {**undeclared(model)._model_args, "num_classes": undeclared(model).num_classes, **asap_kwargs}
    own = {k: v for k, v in pretrained_cfg_of(model).items() if k not in ("architecture", "tag")}
    twin = create_model(twin_name, pretrained_cfg_overlay=own, **arguments).eval()
    twin.load_state_dict(model.state_dict())
    return model, twin


class Blend:
    """Makes every converted layer of a network give `(1 - a) plain(x) + a twin(x)`, in every layout.

    In the layout `"preserve"`, a convolution behind a low-pass `L` then sees `L_a = (1 - a) I + a L`, since both are
    linear. With `a = 1` the layers give exactly what they give without this object, with `a = 0` exactly what the plain
    layers give. Parameters are shared; keys of the state dict, classes and modules stay as they are.

    Args:
        model: A converted network. It keeps the blend until `remove`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.amount = 1.0
        """`a`, from 0 to 1."""
        self._handles = []
        for layer in model.modules():
            if is_converted(layer):
                plain = copy.copy(layer)  # its own class and strides, the same parameters and submodules
                plain._forward_hooks = type(layer._forward_hooks)()
                plain._forward_pre_hooks = type(layer._forward_pre_hooks)()
                detach(plain)
                self._handles.append(layer.register_forward_hook(self._hook(plain)))

    def _hook(self, plain: nn.Module) -> Any:
        def blend(_: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
            if self.amount >= 1:
                return None
            wanted = plain(*args)
            return wanted if self.amount <= 0 else torch.lerp(wanted, output, self.amount)

        return blend

    def also_remove(self, handle: Any) -> None:
        """Remove another hook together with those of this blend."""
        self._handles.append(handle)

    def remove(self) -> None:
        """Leave the network as the twin that it is."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
