"""Reads the downsampling geometry off a layer: which layers stride, by how much, and what size they give."""

from __future__ import annotations

import math
from dataclasses import dataclass

from timm.layers import AvgPool2dSame, BlurPool2d
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

__all__ = ["Geometry", "geometry_of"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Kernel, stride, padding and dilation of a layer that may downsample, all as (height, width).

    Attributes:
        kernel_size: Samples per axis that one output sample takes, before dilation.
        stride: Downsampling factor.
        padding: Samples added on either side; ignored where `same`.
        dilation: Spacing of the kernel's samples.
        ceil_mode: The output size is rounded up, as `nn.MaxPool2d` and `nn.AvgPool2d` can.
        same: TensorFlow's 'SAME' padding, computed from the size of the input.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    same: bool = False

    @property
    def extent(self) -> Pair:
        """Samples from the kernel's first to its last, dilation included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    def output_size(self, size: int, axis: int) -> int:
        """Output samples of an axis (0: height, 1: width) of `size` input samples."""
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
            for axis in (0, 1)
            for size in range(self.extent[axis], self.extent[axis] + 2 * self.stride[axis])
        )

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.kernel_size))
        stride = str(self.stride[0]) if self.stride[0] == self.stride[1] else "x".join(map(str, self.stride))
        dilated = "" if self.dilation == (1, 1) else f" dilation {max(self.dilation)}"
        return f"{kernel} / {stride}{dilated}"


def _pair(value: int | tuple[int, ...]) -> Pair:
    if isinstance(value, (tuple, list)):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))


def _conv_padding(conv: nn.Module) -> Pair:
    if conv.padding == "valid":
        return (0, 0)
    return _pair(conv.padding)


def geometry_of(layer: nn.Module) -> Geometry | None:
    """The geometry of a 2-D convolution, pool or blur pool; None for every other layer.

    Args:
        layer: Any module. Transposed convolutions upsample, and give None.
    """
    if isinstance(layer, (nn.Conv2d, CondConv2d)):
        if layer.padding == "same":  # PyTorch allows it at stride 1 alone
            return None
        # timm's standardised 'same' convolutions carry the flag, its plain one is a class of its own.
        same = isinstance(layer, Conv2dSame) or bool(
            getattr(layer, "same_pad", False) or getattr(layer, "dynamic_padding", False)
        )
        return Geometry(
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _conv_padding(layer),
            _pair(layer.dilation),
            same=same,
        )
    if isinstance(layer, nn.MaxPool2d):
        return Geometry(
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _pair(layer.padding),
            _pair(layer.dilation),
            ceil_mode=layer.ceil_mode,
            same=isinstance(layer, MaxPool2dSame),
        )
    if isinstance(layer, nn.AvgPool2d):
        return Geometry(
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _pair(layer.padding),
            ceil_mode=layer.ceil_mode,
            same=isinstance(layer, AvgPool2dSame),
        )
    if isinstance(layer, BlurPool2d):
        left, right, *_ = layer.padding
        # BlurPool2d pads alike on all sides; were that to change, half the sum would no longer be whole.
        assert left == right, layer.padding
        return Geometry(_pair(layer.filt_size), _pair(layer.stride), (left, left))
    return None


def multiply_adds(channels: int, size: Pair, stride: Pair, pooled: bool) -> int:
    """Multiply-adds of the low-pass (or, `pooled`, of the pool) on `channels` maps of (height, width).

    The columns go first, then the rows, as `timm_asap.resample` applies them.
    """
    height, width = size
    out_height = math.ceil(height / stride[0]) if pooled else height
    out_width = math.ceil(width / stride[1]) if pooled else width
    columns = height * width * out_width if stride[1] > 1 else 0
    rows = out_height * height * out_width if stride[0] > 1 else 0
    return channels * (columns + rows)
