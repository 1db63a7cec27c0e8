"""The plain network that a converted one was made of."""

from __future__ import annotations

import copy

from torch import nn

from timm_asap.strided import PoolThenConv, is_converted

__all__ = ["plain_copy", "unwear"]


def unwear(layer: nn.Module) -> None:
    """Undo :func:`timm_asap.strided.wear` in place: class, stride and padding as before the conversion."""
    geometry = layer.asap.geometry
    dense = isinstance(layer, PoolThenConv)
    layer.__class__ = type(layer).__bases__[1]
    del layer.asap
    if not dense:
        return
    del layer.asap_pad
    layer.stride = geometry.stride
    if not geometry.same:
        layer.padding = geometry.padding
        if getattr(layer, "padding_mode", "zeros") != "zeros":
            height, width = geometry.padding
            layer._reversed_padding_repeated_twice = [width, width, height, height]


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a converted model, with the same weights and its strided layers as they were before.

    Args:
        model: A model that :func:`timm_asap.convert` converted.
    """
    plain = copy.deepcopy(model)
    for layer in plain.modules():
        if is_converted(layer):
            unwear(layer)
    return plain
