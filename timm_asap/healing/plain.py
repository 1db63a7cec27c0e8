"""The plain network that a converted one was made of."""

from __future__ import annotations

import copy

from torch import nn

from timm_asap.conversion.strided import detach, is_converted

__all__ = ["plain_copy"]


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a converted model, with the same weights and its strided layers as they were before.

    Args:
        model: A model that :func:`timm_asap.convert` converted.
    """
    plain = copy.deepcopy(model)
    for layer in plain.modules():
        if is_converted(layer):
            detach(layer)
    return plain
