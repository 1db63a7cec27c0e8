"""What a pool samples: its input after the filter, or the maximum, that it takes around every sample."""

from __future__ import annotations

import torch
from timm.layers import BlurPool2d
from timm.layers.padding import get_same_padding
from torch import nn

from timm_asap.conversion import Operation
from timm_asap.conversion.functional import sliding_max
from timm_asap.conversion.geometry import AVG_POOLS, Geometry, as_sizes, geometry_of

__all__ = ["filters_before_sampling", "fixed_filter", "sampled_map"]


def filters_before_sampling(layer: nn.Module) -> bool:
    """Whether a layer is a fixed low-pass and a stride in one: an average pool or timm's `BlurPool2d`."""
    return isinstance(layer, (*AVG_POOLS.values(), BlurPool2d))


def fixed_filter(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the layer's filter gives at stride 1 on maps that repeat: padding would make high frequencies anew.

    Args:
        layer: Of those that `filters_before_sampling` knows.
        x: Maps (B, C, *grid) of any floating dtype.

    Returns:
        As `x`; every s-th sample of it is what the layer gives, but for its edges.
    """
    geometry = geometry_of(layer)
    for axis, (size, stride) in enumerate(zip(geometry.kernel_size, geometry.stride, strict=True)):
        dim = axis - geometry.axes
        taps = layer.filt[0, 0].sum(dim=0).tolist() if isinstance(layer, BlurPool2d) else [1 / size] * size
        padding = get_same_padding(x.shape[dim], size, stride, 1) // 2 if geometry.same else geometry.padding[axis]
        x = _filter(x, taps, padding, dim)
    return x


def _filter(x: torch.Tensor, taps: list[float], padding: int, dim: int) -> torch.Tensor:
    return sum(tap * x.roll(padding - index, dims=dim) for index, tap in enumerate(taps))


def sampled_map(operation: Operation) -> torch.Tensor:
    """What one operation samples, its grid last: its input, or that after the filter or maximum that it is.

    Args:
        operation: One that makes a grid coarser, while its tensors are at hand.
    """
    axes = len(operation.axes)
    x = operation.x.movedim(operation.axes, tuple(range(-axes, 0)))
    if "pool" not in operation.kind:
        return x
    numbers = [as_sizes(a, axes) for a in operation.arguments[1:5] if isinstance(a, (list, tuple)) and a]
    exact = operation.kind in ("max-pool", "average pool")
    kernel = numbers[0] if exact else operation.stride
    padding = numbers[2] if exact and len(numbers) > 2 else (0,) * axes
    if "max" in operation.kind:
        dilation = numbers[3] if exact and len(numbers) > 3 else (1,) * axes
        return sliding_max(x, Geometry(kernel, (1,) * axes, padding, dilation), padding)
    for axis, size in enumerate(kernel):
        x = _filter(x, [1 / size] * size, padding[axis], axis - axes)
    return x
