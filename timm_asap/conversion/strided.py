"""The strided layers of a network, wearing the operator.

A converted layer keeps its identity: the same object, parameters, hooks and, but for one subclass, the same class.
Its class becomes a subclass made here of a mixin below and the class it had, so `isinstance` still holds, the
state dict is untouched, and a root module or a shared one is converted where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from timm.layers.padding import pad_same_arg
from torch import nn

from timm_asap.conversion.geometry import Geometry
from timm_asap.resample import is_channels_last, resample2d
from timm_asap.sliding_max import sliding_max2d

__all__ = ["AsapLayer", "AsapSpec", "is_converted", "mixin_for", "unwear", "wear"]


@dataclass(frozen=True)
class AsapSpec:
    """How a converted layer downsamples.

    Attributes:
        geometry: Geometry of the layer before conversion.
        window: Window name.
        boundary: Boundary name.
        layout: `"preserve"` or `"paper"`.
    """

    geometry: Geometry
    window: str
    boundary: str
    layout: str


@register_notrace_module
class AsapLayer:
    """Base of the mixins: the specification, pickling and the representation.

    Their `forward` calls on to the class they were mixed into. Never instantiated by itself.
    """

    asap: AsapSpec
    #: What the layer has become, in words, for reports.
    becomes: str
    #: Whether it runs the pool, or else the low-pass.
    pools = True

    def _lowpass(self, x: torch.Tensor) -> torch.Tensor:
        return resample2d(x, "lowpass", self.asap.geometry.stride, self.asap.window, self.asap.boundary)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return resample2d(x, "pool", self.asap.geometry.stride, self.asap.window, self.asap.boundary)

    def _pool_to_plain_size(self, x: torch.Tensor) -> torch.Tensor:
        """The pool, without the last row and column where the plain layer would not give them."""
        size = [self.asap.geometry.output_size(x.shape[axis - 2], axis) for axis in (0, 1)]
        x = self._pool(x)
        return x if list(x.shape[-2:]) == size else x[..., : size[0], : size[1]]

    def extra_repr(self) -> str:
        """The plain layer's, and the operator it wears."""
        plain = super().extra_repr()
        return f"{plain}{', ' if plain else ''}asap={self.asap.layout}/{self.asap.window}/{self.asap.boundary}"

    def __reduce_ex__(self, protocol: int) -> tuple:
        # The class is made at run time and has no importable name: name the two it is made of instead.
        _, (cls,), *rest = super().__reduce_ex__(2)
        mixin, plain = cls.__bases__
        return (_blank, (mixin, plain), *rest)


class LowPassed(AsapLayer):
    """Low-pass, then the layer untouched."""

    becomes = "low-pass, then the layer"
    pools = False

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Low-pass `x`, then run the plain layer on it."""
        return super().forward(self._lowpass(x), *args, **kwargs)


class PooledPointwise(AsapLayer):
    """A 1 x 1 convolution on the pool: what low-pass and strided convolution give, computed at the output's size."""

    becomes = "pool, then the 1x1 convolution"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool `x`, then run the convolution on every sample."""
        return F.conv2d(self._pool(x), self.weight, self.bias, groups=self.groups)


class MaxThenPool(AsapLayer):
    """The maximum over every window, then the pool: a maximum makes new high frequencies, so the pool comes last."""

    becomes = "max at stride 1, then pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Slide the maximum by one sample, then pool to the plain layer's size."""
        geometry = self.asap.geometry
        x = F.pad(x, self._extra_padding(x.shape[-2:]), value=-torch.inf) if self._pads() else x
        padding = (0, 0) if geometry.same else geometry.padding
        y = self._pool(sliding_max2d(x, geometry.kernel_size, padding, geometry.dilation))
        return y if is_channels_last(x) else y.contiguous()

    def _pads(self) -> bool:
        return self.asap.geometry.same or self.asap.geometry.ceil_mode

    def _extra_padding(self, size: tuple[int, int]) -> list[int]:
        """(left, right, top, bottom) that 'same' padding or ceil mode adds to the layer's own."""
        geometry = self.asap.geometry
        if geometry.same:
            return pad_same_arg(size, geometry.kernel_size, geometry.stride, geometry.dilation)
        extra = []
        for axis in (0, 1):
            last_window = (geometry.output_size(size[axis], axis) - 1) * geometry.stride[axis]
            reach = last_window + geometry.extent[axis] - 2 * geometry.padding[axis]
            extra.append(max(0, reach - size[axis]))
        return [0, extra[1], 0, extra[0]]


class PoolThenConv(AsapLayer):
    """The paper's layout: pool, then the convolution at stride 1 with 'same' padding."""

    becomes = "pool, then the layer at stride 1"

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Pool `x`, then run the plain layer, whose stride is now 1, on it."""
        return super().forward(F.pad(self._pool_to_plain_size(x), self.asap_pad), *args, **kwargs)


class PoolAlone(AsapLayer):
    """The paper's layout for pools: the pool in place of the layer."""

    becomes = "pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool `x` to the plain layer's size."""
        return self._pool_to_plain_size(x)


@cache
def _class_of(mixin: type[AsapLayer], plain: type[nn.Module]) -> type[nn.Module]:
    return type(f"Asap{plain.__name__}", (mixin, plain), {"__module__": __name__, "__doc__": mixin.__doc__})


def _blank(mixin: type[AsapLayer], plain: type[nn.Module]) -> nn.Module:
    """An empty instance of the class made of both, for pickling and copying to fill."""
    cls = _class_of(mixin, plain)
    return cls.__new__(cls)


def is_converted(layer: nn.Module) -> bool:
    """Whether a layer already wears the operator."""
    return isinstance(layer, AsapLayer)


def mixin_for(layer: nn.Module, geometry: Geometry, layout: str) -> type[AsapLayer]:
    """What makes a strided layer alias-free in a layout.

    Args:
        layer: A layer of which :func:`timm_asap.conversion.geometry.geometry_of` knows the geometry.
        geometry: That geometry.
        layout: `"preserve"` or `"paper"`.
    """
    convolves = not isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)) and hasattr(layer, "weight")
    if layout == "paper":
        return PoolThenConv if convolves else PoolAlone
    if isinstance(layer, nn.MaxPool2d):
        return MaxThenPool
    # Exact only where the layer is nothing but the convolution: standardised ones compute their weight in forward.
    pointwise = geometry.extent == (1, 1) and (geometry.same or geometry.padding == (0, 0))
    if pointwise and type(layer).forward is nn.Conv2d.forward:
        return PooledPointwise
    return LowPassed


def _make_dense(layer: nn.Module, geometry: Geometry) -> None:
    """Stride 1 and 'same' padding, (extent - 1) // 2 before and extent // 2 after, on a convolution."""
    layer.stride = (1, 1)
    layer.asap_pad = (0, 0, 0, 0)
    if geometry.same:
        return
    before = [(extent - 1) // 2 for extent in geometry.extent]
    after = [extent // 2 for extent in geometry.extent]
    around = (before[1], after[1], before[0], after[0])
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        layer.padding = tuple(before)
        layer._reversed_padding_repeated_twice = list(around)  # what nn.Conv2d pads with in these modes
    elif before == after:
        layer.padding = tuple(before)
    else:
        layer.padding = (0, 0)
        layer.asap_pad = around


def wear(layer: nn.Module, spec: AsapSpec, mixin: type[AsapLayer]) -> None:
    """Convert one strided layer in place.

    Args:
        layer: A layer that is not converted yet.
        spec: How it shall downsample.
        mixin: What it becomes: of :func:`mixin_for`, or of `timm_asap.conversion.sites`.
    """
    if mixin is PoolThenConv:
        _make_dense(layer, spec.geometry)
    layer.asap = spec
    layer.__class__ = _class_of(mixin, type(layer))


def unwear(layer: nn.Module) -> AsapSpec:
    """Undo :func:`wear` in place: class, stride and padding as before the conversion.

    Args:
        layer: A converted layer.

    Returns:
        How it downsampled.
    """
    spec, geometry = layer.asap, layer.asap.geometry
    dense = isinstance(layer, PoolThenConv)
    layer.__class__ = type(layer).__bases__[1]
    del layer.asap
    if dense:
        del layer.asap_pad
        layer.stride = geometry.stride
        if not geometry.same:
            layer.padding = geometry.padding
            if getattr(layer, "padding_mode", "zeros") != "zeros":
                height, width = geometry.padding
                layer._reversed_padding_repeated_twice = [width, width, height, height]
    return spec
