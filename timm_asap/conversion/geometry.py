"""Reads the downsampling geometry off a layer: which layers stride, by how much, and what size they give.

Everything is a tuple with one entry per axis of the grid: length; height and width; or depth, height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from timm.layers import AvgPool2dSame, BlurPool2d
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

from timm_asap._types import undeclared

__all__ = [
    "AVG_POOLS",
    "CONVOLUTIONS",
    "MAX_POOLS",
    "Geometry",
    "as_sizes",
    "geometry_of",
    "multiply_adds",
    "upsampling_geometry",
]

Sizes = tuple[int, ...]

# By the number of axes of their grid.
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
LP_POOLS = {1: nn.LPPool1d, 2: nn.LPPool2d, 3: nn.LPPool3d}


@dataclass(frozen=True)
class Geometry:
    """Kernel, stride, padding and dilation of a layer that may downsample, one entry per axis of its grid.

    Attributes:
        kernel_size: Samples per axis that one output sample takes, before dilation.
        stride: Downsampling factor.
        padding: Samples added on either side; ignored where `same`.
        dilation: Spacing of the kernel's samples.
        ceil_mode: The output size is rounded up, as `nn.MaxPool2d` and `nn.AvgPool2d` can.
        same: TensorFlow's 'SAME' padding, computed from the size of the input.
    """

    kernel_size: Sizes
    stride: Sizes
    padding: Sizes = ()
    dilation: Sizes = ()
    ceil_mode: bool = False
    same: bool = False

    def __post_init__(self) -> None:
        axes = len(self.stride)
        object.__setattr__(self, "padding", self.padding or (0,) * axes)
        object.__setattr__(self, "dilation", self.dilation or (1,) * axes)

    @property
    def axes(self) -> int:
        """Axes of the grid: 1, 2 or 3."""
        return len(self.stride)

    @property
    def strides(self) -> bool:
        """Whether any axis is downsampled."""
        return max(self.stride) > 1

    @property
    def extent(self) -> Sizes:
        """Samples from the kernel's first to its last, dilation included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def is_pointwise(self) -> bool:
        """Whether one output sample takes one input sample, and nothing is padded."""
        return max(self.extent) == 1 and (self.same or not any(self.padding))

    def output_size(self, size: int, axis: int) -> int:
        """Output samples of an axis (counted from the first of the grid) of `size` input samples."""
        stride, padding, extent = self.stride[axis], self.padding[axis], self.extent[axis]
        if self.same:
            return -(-size // stride)
        room = size + 2 * padding - extent
        if not self.ceil_mode:
            return room // stride + 1
        out = -(-room // stride) + 1
        # PyTorch's rule: the last window must start inside the input or its left padding.
        return out - 1 if (out - 1) * stride >= size + padding else out

    def fits_pool(self) -> bool:
        """Whether the pool always has the samples this layer would give, on every input size.

        The pool gives ceil(n / stride) samples; a layer padded wider than 'same' may ask for one more.
        """
        return all(
            self.output_size(size, axis) <= -(-size // self.stride[axis])
            for axis in range(self.axes)
            for size in range(self.extent[axis], self.extent[axis] + 2 * self.stride[axis])
        )

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.kernel_size))
        stride = str(self.stride[0]) if len(set(self.stride)) == 1 else "x".join(map(str, self.stride))
        dilated = "" if max(self.dilation) == 1 else f" dilation {max(self.dilation)}"
        return f"{kernel} / {stride}{dilated}"


def as_sizes(value: int | tuple[int, ...] | list[int], axes: int) -> Sizes:
    """One number per axis: a whole number, or a tuple of one or of `axes`."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values[-axes:]))


def _axes_of(layer: nn.Module, classes: dict[int, type[nn.Module]]) -> int:
    return next((axes for axes, cls in classes.items() if isinstance(layer, cls)), 0)


def geometry_of(layer: nn.Module) -> Geometry | None:
    """The geometry of a convolution, pool, blur pool or rearrangement of blocks; None for every other layer.

    Layers whose stride depends on their input, such as adaptive pools, have none.

    Args:
        layer: Any module. Transposed convolutions upsample, and give None.
    """
    if isinstance(layer, (CondConv2d, nn.modules.conv._ConvNd)) and not getattr(layer, "transposed", False):
        return _of_convolution(layer)
    if is_quantized_convolution(layer):
        return _of_convolution(layer)
    own = undeclared(layer)
    if axes := _axes_of(layer, MAX_POOLS):
        return Geometry(
            as_sizes(own.kernel_size, axes),
            as_sizes(own.stride, axes),
            as_sizes(own.padding, axes),
            as_sizes(own.dilation, axes),
            ceil_mode=own.ceil_mode,
            same=isinstance(layer, MaxPool2dSame),
        )
    if axes := _axes_of(layer, AVG_POOLS):
        return Geometry(
            as_sizes(own.kernel_size, axes),
            as_sizes(own.stride, axes),
            as_sizes(own.padding, axes),
            ceil_mode=own.ceil_mode,
            same=isinstance(layer, AvgPool2dSame),
        )
    if axes := _axes_of(layer, LP_POOLS):
        kernel = as_sizes(own.kernel_size, axes)
        stride = kernel if own.stride is None else as_sizes(own.stride, axes)
        return Geometry(kernel, stride, ceil_mode=own.ceil_mode)
    if isinstance(layer, BlurPool2d):
        left, right, *_ = own.padding
        # BlurPool2d pads alike on all sides; were that to change, half the sum would no longer be whole.
        assert left == right, own.padding
        return Geometry(as_sizes(own.filt_size, 2), as_sizes(own.stride, 2), (left, left))
    if isinstance(layer, nn.PixelUnshuffle):
        return Geometry((layer.downscale_factor,) * 2, (layer.downscale_factor,) * 2)
    if isinstance(layer, nn.Unfold) or is_deformable(layer):
        return Geometry(
            as_sizes(own.kernel_size, 2), as_sizes(own.stride, 2), as_sizes(own.padding, 2), as_sizes(own.dilation, 2)
        )
    return None


def upsampling_geometry(layer: nn.Module) -> Geometry | None:
    """Kernel and factor of a layer that makes a grid finer by a whole factor; None for every other layer.

    Args:
        layer: A transposed convolution, `nn.Upsample` by a whole `scale_factor`, or `nn.PixelShuffle`.
    """
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        geometry = _of_convolution(layer)
    elif isinstance(layer, nn.PixelShuffle):
        geometry = Geometry((layer.upscale_factor,) * 2, (layer.upscale_factor,) * 2)
    elif isinstance(layer, nn.Upsample) and layer.scale_factor is not None:
        # How many axes there are, its input decides: a single factor is for any number of them.
        factors = layer.scale_factor if isinstance(layer.scale_factor, tuple) else (layer.scale_factor,) * 2
        if any(factor != int(factor) or factor < 1 for factor in factors):
            return None
        geometry = Geometry(tuple(map(int, factors)), tuple(map(int, factors)))
    else:
        return None
    return geometry if geometry is not None and geometry.strides else None


def is_quantized_convolution(layer: nn.Module) -> bool:
    """Whether a layer is an int8 convolution of PyTorch's eager mode, with or without the activation fused into it."""
    modules = ("torch.ao.nn.quantized.modules.conv", "torch.ao.nn.intrinsic.quantized.modules.conv_relu")
    return type(layer).__module__ in modules and not getattr(layer, "transposed", False)


def is_deformable(layer: nn.Module) -> bool:
    """Whether a layer is torchvision's deformable convolution, or of a class made of it."""
    return any(cls.__module__ == "torchvision.ops.deform_conv" for cls in type(layer).__mro__)


def _of_convolution(layer: nn.Module) -> Geometry | None:
    own = undeclared(layer)
    if own.padding == "same":  # PyTorch allows it at stride 1 alone
        return None
    axes = len(own.kernel_size) if isinstance(own.kernel_size, (tuple, list)) else 2
    # timm's standardized 'same' convolutions carry the flag, its plain one is a class of its own.
    same = isinstance(layer, Conv2dSame) or bool(
        getattr(layer, "same_pad", False) or getattr(layer, "dynamic_padding", False)
    )
    return Geometry(
        as_sizes(own.kernel_size, axes),
        as_sizes(own.stride, axes),
        (0,) * axes if own.padding == "valid" else as_sizes(own.padding, axes),
        as_sizes(own.dilation, axes),
        same=same,
    )


def multiply_adds(channels: int, size: Sequence[int], stride: Sizes, pooled: bool) -> int:
    """Multiply-adds of the low-pass (or, `pooled`, of the pool) on `channels` maps of a size.

    The last axis goes first, as `timm_asap.ops.resample` applies them.
    """
    left, total = list(size), 0
    for axis in reversed(range(len(left))):
        if stride[axis] > 1:
            rows = math.ceil(left[axis] / stride[axis]) if pooled else left[axis]
            total += math.prod(left) * rows
            left[axis] = rows
    return channels * total
