"""What an average pool or a blur pool samples: its input after the fixed filter that it has."""

from __future__ import annotations

import torch
from timm.layers import BlurPool2d
from timm.layers.padding import get_same_padding
from torch import nn

from timm_asap.conversion.geometry import geometry_of

__all__ = ["filters_before_sampling", "fixed_filter"]


def filters_before_sampling(layer: nn.Module) -> bool:
    """Whether a layer is a fixed low-pass and a stride in one: an average pool or timm's `BlurPool2d`."""
    return isinstance(layer, (nn.AvgPool2d, BlurPool2d))


def fixed_filter(layer: nn.AvgPool2d | BlurPool2d, x: torch.Tensor) -> torch.Tensor:
    """What the layer's filter gives at stride 1 on maps that repeat: padding would make high frequencies anew.

    Args:
        layer: Of those that `filters_before_sampling` knows.
        x: Maps (B, C, H, W) of any floating dtype.

    Returns:
        As `x`; every s-th sample of it is what the layer gives, but for its edges.
    """
    geometry = geometry_of(layer)
    for axis, (size, stride) in enumerate(zip(geometry.kernel_size, geometry.stride, strict=True)):
        taps = layer.filt[0, 0].sum(dim=0).tolist() if isinstance(layer, BlurPool2d) else [1 / size] * size
        padding = get_same_padding(x.shape[axis - 2], size, stride, 1) // 2 if geometry.same else geometry.padding[axis]
        x = sum(tap * x.roll(padding - index, dims=axis - 2) for index, tap in enumerate(taps))
    return x
