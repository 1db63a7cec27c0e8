"""From the plain network to its twin by degrees: each alias-free layer blended with the plain layer it was made of."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from timm_asap.conversion.strided import detach, is_converted

__all__ = ["Blend"]


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
