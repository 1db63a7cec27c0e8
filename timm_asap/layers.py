"""The low-pass and the pool, as functions and as layers."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_function, register_notrace_module
from torch import nn

from timm_asap.resample import resample2d
from timm_asap.spectral import as_boundary, as_window, check_count

__all__ = ["AsapPool2d", "LowPass2d", "asap_pool2d", "lowpass2d"]


def stride_pair(stride: int | tuple[int, int]) -> tuple[int, int]:
    """One stride per axis, (height, width), checked."""
    pair = tuple(stride) if isinstance(stride, (tuple, list)) else (stride, stride)
    if len(pair) != 2:
        raise ValueError(f"stride: expected a whole number or a pair of them, got {stride!r}")
    return check_count("stride", pair[0]), check_count("stride", pair[1])


def _check_image(x: torch.Tensor) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.ndim not in (3, 4):
        raise ValueError(f"x: expected shape (B, C, H, W) or (C, H, W), got {x.ndim} axes: {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x: expected a floating-point tensor, got {x.dtype}; convert it, for example with x.float()")
    if not torch.jit.is_tracing() and 0 in x.shape[-3:]:  # a trace records no decision
        raise ValueError(f"x: expected at least one channel, row and column, got shape {tuple(x.shape)}")


@register_notrace_function
def lowpass2d(
    x: torch.Tensor, stride: int | tuple[int, int] = 2, window: str = "asap", boundary: str = "circular"
) -> torch.Tensor:
    """Remove what a grid `stride` times coarser cannot carry; the size stays.

    `y = L_h x L_w^T`, one symmetric matrix per axis (:func:`timm_asap.spectral.lowpass_matrix`). A layer with that
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

    Example:
        >>> rows = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1).expand(1, 1, 4, 4)
        >>> bool(lowpass2d(rows).abs().max() < 1e-6)  # the highest frequency is gone
        True
    """
    _check_image(x)
    return resample2d(x, "lowpass", stride_pair(stride), as_window(window).value, as_boundary(boundary).value)


@register_notrace_function
def asap_pool2d(
    x: torch.Tensor, stride: int | tuple[int, int] = 2, window: str = "asap", boundary: str = "circular"
) -> torch.Tensor:
    """Downsample without aliasing: the samples that a stride takes, of the low-passed images.

    `y = P_h x P_w^T` with `P = L[::stride]` per axis (:func:`timm_asap.spectral.pool_matrix`).

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
        As :func:`lowpass2d`.

    Example:
        >>> asap_pool2d(torch.ones(1, 1, 3, 4))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """
    _check_image(x)
    return resample2d(x, "pool", stride_pair(stride), as_window(window).value, as_boundary(boundary).value)


class _Resample2d(nn.Module):
    """What the two layers share: their arguments, checked once, and their representation."""

    kind: str

    def __init__(
        self,
        channels: int | None = None,
        stride: int | tuple[int, int] = 2,
        window: str = "asap",
        boundary: str = "circular",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride_pair(stride)
        self.window = as_window(window).value
        self.boundary = as_boundary(boundary).value

    def extra_repr(self) -> str:
        """Stride, window and boundary."""
        return f"stride={self.stride}, window={self.window!r}, boundary={self.boundary!r}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the operator to (B, C, H, W) or (C, H, W)."""
        _check_image(x)
        return resample2d(x, self.kind, self.stride, self.window, self.boundary)


@register_notrace_module
class AsapPool2d(_Resample2d):
    """:func:`asap_pool2d` as a layer, without parameters, buffers or state.

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
        TypeError, ValueError: As :func:`asap_pool2d`; the arguments are checked at construction.

    Example:
        >>> AsapPool2d(stride=2)(torch.zeros(8, 64, 56, 56)).shape
        torch.Size([8, 64, 28, 28])
    """

    kind = "pool"


@register_notrace_module
class LowPass2d(_Resample2d):
    """:func:`lowpass2d` as a layer, without parameters, buffers or state.

    Args:
        channels: Accepted for symmetry with :class:`AsapPool2d`; every channel is treated alike.
        stride: Factor of the downsampling to come, one number or (height, width).
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.
        device: Accepted for symmetry likewise; there is nothing to place.
        dtype: Likewise.

    Shape:
        (B, C, H, W) to (B, C, H, W).

    Raises:
        TypeError, ValueError: As :func:`lowpass2d`; the arguments are checked at construction.

    Example:
        >>> LowPass2d(stride=(2, 1))(torch.zeros(8, 64, 55, 40)).shape
        torch.Size([8, 64, 55, 40])
    """

    kind = "lowpass"
