"""The low-pass, the pool and its transpose, as functions and as layers, over one, two or three axes."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from timm_asap._timm import register_notrace_function, register_notrace_module
from timm_asap._types import BoundaryName, WindowName
from timm_asap.ops.resample import resample
from timm_asap.ops.spectral import Boundary, Window, as_boundary, as_window, check_count

__all__ = [
    "AsapPool1d",
    "AsapPool2d",
    "AsapPool3d",
    "AsapUpsample1d",
    "AsapUpsample2d",
    "AsapUpsample3d",
    "LowPass1d",
    "LowPass2d",
    "LowPass3d",
    "asap_pool1d",
    "asap_pool2d",
    "asap_pool3d",
    "asap_upsample1d",
    "asap_upsample2d",
    "asap_upsample3d",
    "lowpass1d",
    "lowpass2d",
    "lowpass3d",
    "not_traced",
]

C = TypeVar("C", bound=type[nn.Module])

_GRIDS = {1: "L", 2: "H, W", 3: "D, H, W"}
_TUPLES = {1: "a tuple of one", 2: "a pair of them", 3: "three of them"}
_EMPTY = {1: "channel and sample", 2: "channel, row and column", 3: "channel, frame, row and column"}


def not_traced(cls: C) -> C:
    """timm's `register_notrace_module`, which does not declare that it gives back the very class."""
    register_notrace_module(cls)
    return cls


def _strides(stride: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """One stride per axis, checked."""
    strides = tuple(stride) if isinstance(stride, (tuple, list)) else (stride,) * axes
    if len(strides) != axes:
        raise ValueError(f"stride: expected a whole number or {_TUPLES[axes]}, got {stride!r}")
    return tuple(check_count("stride", one) for one in strides)


def _check_map(x: torch.Tensor, axes: int) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.ndim not in (axes + 1, axes + 2):
        grid = _GRIDS[axes]
        raise ValueError(f"x: expected shape (B, C, {grid}) or (C, {grid}), got {x.ndim} axes: {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x: expected a floating-point tensor, got {x.dtype}; convert it, for example with x.float()")
    if not torch.jit.is_tracing() and 0 in x.shape[-axes - 1 :]:  # a trace records no decision
        raise ValueError(f"x: expected at least one {_EMPTY[axes]}, got shape {tuple(x.shape)}")


def _apply(
    kind: str, axes: int, x: torch.Tensor, stride: int | tuple[int, ...], window: str, boundary: str
) -> torch.Tensor:
    _check_map(x, axes)
    return resample(x, kind, _strides(stride, axes), as_window(window).value, as_boundary(boundary).value)


@register_notrace_function
def lowpass2d(
    x: torch.Tensor,
    stride: int | tuple[int, int] = 2,
    window: WindowName | Window = "asap",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """Remove what a grid `stride` times coarser cannot carry; the size stays.

    `y = L_h x L_w^T`, one symmetric matrix per axis (`timm_asap.spectral.lowpass_matrix`). A layer with that
    stride, applied to `y`, samples no frequency beyond its reach.

    Args:
        x: Floating-point images.
        stride: Factor of the downsampling to come, one number or (height, width). 1 leaves an axis as it is.
        window: Weight of the kept frequencies: `"asap"`, `"hamming"` or `"flc"`.
        boundary: What lies beyond the edges: `"circular"`, `"reflect"` or `"zero"`.

    Shape:
        (B, C, H, W) to (B, C, H, W), or (C, H, W) to (C, H, W). An axis of size 1 passes through.

    Returns:
        Tensor of the dtype, device and memory format of `x`; under autocast, of autocast's dtype, as for any matrix
        product. Matrices are computed in float64 and rounded to the dtype of `x`. Measured largest error against
        float64, as a share of the largest input: 4.1e-3 in bfloat16, 5.8e-4 in float16, 5.0e-7 in float32.

    Raises:
        TypeError: `x` is no floating-point tensor, or `stride` is no whole number.
        ValueError: `x` has neither 3 nor 4 axes or an empty one, `stride` is below 1, or a name is unknown.

    Reference:
        Grabinski, Keuper & Keuper, arXiv 2307.09804. Departures: separable real matrices in place of the FFT, and the
        crop, window and frequency at the cut placed symmetrically (`timm_asap.reference` has the released code).

    Examples:
        >>> rows = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1).expand(1, 1, 4, 4)
        >>> bool(lowpass2d(rows).abs().max() < 1e-6)  # the highest frequency is gone
        True
    """
    return _apply("lowpass", 2, x, stride, window, boundary)


@register_notrace_function
def asap_pool2d(
    x: torch.Tensor,
    stride: int | tuple[int, int] = 2,
    window: WindowName | Window = "asap",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """Downsample without aliasing: the samples that a stride takes, of the low-passed images.

    `y = P_h x P_w^T` with `P = L[::stride]` per axis (`timm_asap.spectral.pool_matrix`).

    Args:
        x: Floating-point images.
        stride: Downsampling factor, one number or (height, width).
        window: Weight of the kept frequencies: `"asap"`, `"hamming"` or `"flc"`.
        boundary: What lies beyond the edges: `"circular"`, `"reflect"` or `"zero"`.

    Shape:
        (B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride)), or the same without B. An axis of size 1 passes
        through.

    Returns:
        Tensor of the dtype, device and memory format of `x`; under autocast, of autocast's dtype, as for any matrix
        product. Matrices are computed in float64 and rounded to the dtype of `x`. Measured largest error against
        float64, as a share of the largest input: 4.1e-3 in bfloat16, 5.8e-4 in float16, 5.0e-7 in float32.

    Raises:
        TypeError: `x` is no floating-point tensor, or `stride` is no whole number.
        ValueError: `x` has neither 3 nor 4 axes or an empty one, `stride` is below 1, or a name is unknown.

    Reference:
        As `lowpass2d`.

    Examples:
        >>> asap_pool2d(torch.ones(1, 1, 3, 4))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """
    return _apply("pool", 2, x, stride, window, boundary)


@register_notrace_function
def asap_upsample2d(
    x: torch.Tensor,
    stride: int | tuple[int, int] = 2,
    window: WindowName | Window = "flc",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """Enlarge without images of the spectrum: the transpose of the pool, times the stride on each axis.

    `y = U_h x U_w^T` with `U = stride P^T` per axis (`timm_asap.spectral.upsample_matrix`). Sample i of the input
    lies at sample `stride i` of the output, as the pool takes them, and nothing lies above the input's own Nyquist
    frequency.

    Args:
        x: Floating-point maps.
        stride: Factor of the enlargement, one number or (height, width).
        window: Weight of the frequencies: with `"flc"` maps that are band-limited come back exactly, and pooling what
            was upsampled gives the input again (but for the alternation of neighbors, on even sizes); the others damp.
        boundary: What lies beyond the edges. Exact is `"circular"`; with the others, which are transposes as well,
            constants bend at the borders.

    Shape:
        (B, C, H, W) to (B, C, H stride, W stride), or the same without B.

    Returns:
        As `asap_pool2d`.

    Raises:
        TypeError, ValueError: As `asap_pool2d`.

    Examples:
        >>> x = torch.cos(torch.arange(12) * torch.pi / 6).view(1, 1, 1, 12)  # one period in 12 samples
        >>> torch.allclose(asap_upsample2d(x[..., ::2], (1, 2)), x, atol=1e-6)
        True
    """
    return _apply("upsample", 2, x, stride, window, boundary)


def lowpass1d(
    x: torch.Tensor,
    stride: int | tuple[int] = 2,
    window: WindowName | Window = "asap",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """`lowpass2d` for signals: (B, C, L) or (C, L), the size stays."""
    return _apply("lowpass", 1, x, stride, window, boundary)


def lowpass3d(
    x: torch.Tensor,
    stride: int | tuple[int, int, int] = 2,
    window: WindowName | Window = "asap",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """`lowpass2d` for volumes and videos: (B, C, D, H, W) or (C, D, H, W), the size stays."""
    return _apply("lowpass", 3, x, stride, window, boundary)


def asap_pool1d(
    x: torch.Tensor,
    stride: int | tuple[int] = 2,
    window: WindowName | Window = "asap",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """`asap_pool2d` for signals: (B, C, L) to (B, C, ceil(L / stride)).

    Examples:
        >>> asap_pool1d(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))
        tensor([[0., 0.]])
    """
    return _apply("pool", 1, x, stride, window, boundary)


def asap_pool3d(
    x: torch.Tensor,
    stride: int | tuple[int, int, int] = 2,
    window: WindowName | Window = "asap",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """`asap_pool2d` for volumes and videos: (B, C, D, H, W), each axis divided by its stride, rounded up."""
    return _apply("pool", 3, x, stride, window, boundary)


def asap_upsample1d(
    x: torch.Tensor,
    stride: int | tuple[int] = 2,
    window: WindowName | Window = "flc",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """`asap_upsample2d` for signals: (B, C, L) to (B, C, L stride)."""
    return _apply("upsample", 1, x, stride, window, boundary)


def asap_upsample3d(
    x: torch.Tensor,
    stride: int | tuple[int, int, int] = 2,
    window: WindowName | Window = "flc",
    boundary: BoundaryName | Boundary = "circular",
) -> torch.Tensor:
    """`asap_upsample2d` for volumes and videos: (B, C, D, H, W), each axis times its stride."""
    return _apply("upsample", 3, x, stride, window, boundary)


for _function in (lowpass1d, lowpass3d, asap_pool1d, asap_pool3d, asap_upsample1d, asap_upsample3d):
    register_notrace_function(_function)


class _Resample(nn.Module):
    """What the layers share: their arguments, checked once, and their representation."""

    kind: str
    axes: int

    def __init__(
        self,
        channels: int | None = None,
        stride: int | tuple[int, ...] = 2,
        window: WindowName | Window | None = None,
        boundary: BoundaryName | Boundary = "circular",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        window = window or ("flc" if self.kind == "upsample" else "asap")
        self.channels = channels
        self.stride = _strides(stride, self.axes)
        self.window = as_window(window).value
        self.boundary = as_boundary(boundary).value

    def extra_repr(self) -> str:
        """Stride, window and boundary."""
        return f"stride={self.stride}, window={self.window!r}, boundary={self.boundary!r}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the operator to (B, C, *grid) or (C, *grid)."""
        _check_map(x, len(self.stride))  # not self.axes: a compiler of any size takes a number for one
        return resample(x, self.kind, self.stride, self.window, self.boundary)


@not_traced
class AsapPool2d(_Resample):
    """`asap_pool2d` as a layer, without parameters, buffers or state.

    Fits timm's `aa_layer`: `timm.create_model("resnet50", aa_layer=AsapPool2d)`.

    Args:
        channels: Accepted for timm's `aa_layer` protocol; every channel is treated alike.
        stride: Downsampling factor, one number or (height, width).
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.
        device: Accepted for the same protocol; there is nothing to place.
        dtype: Likewise.

    Shape:
        (B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride)).

    Raises:
        TypeError, ValueError: As `asap_pool2d`; the arguments are checked at construction.

    Examples:
        >>> AsapPool2d(stride=2)(torch.zeros(8, 64, 56, 56)).shape
        torch.Size([8, 64, 28, 28])
    """

    kind, axes = "pool", 2


@not_traced
class LowPass2d(_Resample):
    """`lowpass2d` as a layer, without parameters, buffers or state.

    Args:
        channels: Accepted for symmetry with `AsapPool2d`; every channel is treated alike.
        stride: Factor of the downsampling to come, one number or (height, width).
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.
        device: Accepted for symmetry likewise; there is nothing to place.
        dtype: Likewise.

    Shape:
        (B, C, H, W) to (B, C, H, W).

    Raises:
        TypeError, ValueError: As `lowpass2d`; the arguments are checked at construction.

    Examples:
        >>> LowPass2d(stride=(2, 1))(torch.zeros(8, 64, 55, 40)).shape
        torch.Size([8, 64, 55, 40])
    """

    kind, axes = "lowpass", 2


@not_traced
class AsapUpsample2d(_Resample):
    """`asap_upsample2d` as a layer, without parameters, buffers or state.

    Args:
        channels: Accepted for symmetry with `AsapPool2d`; every channel is treated alike.
        stride: Factor of the enlargement, one number or (height, width).
        window: `"flc"` (the default here, exact on band-limited maps), `"asap"` or `"hamming"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.
        device: Accepted for symmetry likewise; there is nothing to place.
        dtype: Likewise.

    Shape:
        (B, C, H, W) to (B, C, H stride, W stride).

    Raises:
        TypeError, ValueError: As `asap_upsample2d`; the arguments are checked at construction.

    Examples:
        >>> AsapUpsample2d(stride=2)(torch.zeros(8, 64, 28, 28)).shape
        torch.Size([8, 64, 56, 56])
    """

    kind, axes = "upsample", 2


@not_traced
class AsapPool1d(_Resample):
    """`asap_pool1d` as a layer; arguments as `AsapPool2d`."""

    kind, axes = "pool", 1


@not_traced
class AsapPool3d(_Resample):
    """`asap_pool3d` as a layer; arguments as `AsapPool2d`, the stride one number or one per axis."""

    kind, axes = "pool", 3


@not_traced
class LowPass1d(_Resample):
    """`lowpass1d` as a layer; arguments as `LowPass2d`."""

    kind, axes = "lowpass", 1


@not_traced
class LowPass3d(_Resample):
    """`lowpass3d` as a layer; arguments as `LowPass2d`, the stride one number or one per axis."""

    kind, axes = "lowpass", 3


@not_traced
class AsapUpsample1d(_Resample):
    """`asap_upsample1d` as a layer; arguments as `AsapUpsample2d`."""

    kind, axes = "upsample", 1


@not_traced
class AsapUpsample3d(_Resample):
    """`asap_upsample3d` as a layer; arguments as `AsapUpsample2d`, the stride one number or three."""

    kind, axes = "upsample", 3
