"""Windows and one-dimensional operators: numbers in, float64 matrices out.

Every operator of this package is one real matrix per axis. This file builds those matrices from the
definition, in float64 on the CPU; how they are cached, cast and applied to images is `timm_asap.ops.resample`'s.
"""

from __future__ import annotations

import math
from enum import Enum
from numbers import Integral

import torch

from timm_asap._types import BoundaryName, WindowName
from timm_asap.errors import unknown_name

__all__ = ["Boundary", "Window", "lowpass_matrix", "pool_matrix", "upsample_matrix", "window_weights"]


class Window(str, Enum):
    """The weight of a kept frequency."""

    ASAP = "asap"
    HAMMING = "hamming"
    FLC = "flc"


class Boundary(str, Enum):
    """What the signal is beyond its edges."""

    CIRCULAR = "circular"
    REFLECT = "reflect"
    ZERO = "zero"


def as_window(window: str | Window) -> Window:
    """The window of that name; raises ValueError that lists the valid ones."""
    try:
        return Window(window)
    except ValueError:
        raise ValueError(unknown_name("window", window, [w.value for w in Window])) from None


def as_boundary(boundary: str | Boundary) -> Boundary:
    """The boundary of that name; raises ValueError that lists the valid ones."""
    try:
        return Boundary(boundary)
    except ValueError:
        raise ValueError(unknown_name("boundary", boundary, [b.value for b in Boundary])) from None


def check_count(name: str, value: object) -> int:
    """A whole number of at least one, or TypeError / ValueError naming the argument."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected a whole number, got {value!r} ({type(value).__name__})")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def window_weights(n: int, stride: int = 2, window: WindowName | Window = "asap") -> torch.Tensor:
    """Weights of the frequencies 0, 1, ..., n - 1 of an n-point DFT under the low-pass.

    A frequency `k` (folded to `|k| <= n / 2`) weighs `w(k)` below the cut `n / (2 stride)`, half of `w(k)` exactly
    on it and nothing above it:

    - `"asap"`: `w(k) = sqrt(0.54 + 0.46 cos(2 pi k / n))`, the root of a Hamming window over the whole spectrum;
    - `"hamming"`: `w(k) = 0.54 + 0.46 cos(2 pi k stride / n)`, a Hamming window over the kept band;
    - `"flc"`: `w(k) = 1`.

    The frequency on the cut is halved as in band-limited resampling: `+k` and `-k` fold onto the one Nyquist
    frequency of the output, where the two halves add up to `w(k)`.

    Args:
        n: Number of samples.
        stride: Downsampling factor; 1 keeps every frequency at weight one.
        window: `"asap"`, `"hamming"` or `"flc"`.

    Returns:
        float64 tensor of shape (n,), in the order of `torch.fft.fft`, symmetric in frequency.

    Raises:
        TypeError: `n` or `stride` is no whole number.
        ValueError: `n` or `stride` is below 1, or the window is unknown.

    Reference:
        Grabinski, Keuper & Keuper, "Fix your downsampling ASAP!", arXiv 2307.09804, section 3. Departure: the
        released code centers its window half a bin off for even sizes and keeps one unpaired frequency.

    Examples:
        >>> window_weights(8, stride=2, window="flc")
        tensor([1.0000, 1.0000, 0.5000, 0.0000, 0.0000, 0.0000, 0.5000, 1.0000],
               dtype=torch.float64)
    """
    n, stride, window = check_count("n", n), check_count("stride", stride), as_window(window)
    bins = torch.arange(n, device="cpu")
    k = torch.minimum(bins, n - bins)
    if stride == 1:
        return torch.ones(n, dtype=torch.float64, device="cpu")
    phase = 2 * math.pi * k.to(torch.float64) / n
    if window is Window.ASAP:
        weight = (0.54 + 0.46 * torch.cos(phase)).sqrt()
    elif window is Window.HAMMING:
        weight = 0.54 + 0.46 * torch.cos(phase * stride)
    else:
        weight = torch.ones_like(phase)
    # The cut is compared in whole numbers, 2 k stride against n, so that no rounding decides what is on it.
    band = 2 * k * stride
    return torch.where(band < n, weight, torch.where(band == n, weight / 2, torch.zeros_like(weight)))


def _circulant(weights: torch.Tensor) -> torch.Tensor:
    """The circulant matrix that multiplies DFT frequency k by weights[k]; weights are even, so it is real."""
    n = len(weights)
    kernel = torch.fft.ifft(weights).real
    index = torch.arange(n, device="cpu")
    return kernel[(index[:, None] - index[None, :]) % n]


def lowpass_matrix(
    n: int, stride: int = 2, window: WindowName | Window = "asap", boundary: BoundaryName | Boundary = "circular"
) -> torch.Tensor:
    """The low-pass `L` of one axis: removes what a grid `stride` times coarser cannot carry.

    - `"circular"`: the circulant matrix whose DFT is `window_weights` of n.
    - `"reflect"`: the same weights of 2 n, on the signal followed by its mirror image (half-sample symmetric), first
      n rows; diagonal in the DCT-II basis, where basis vector m has the weight of frequency m of 2 n.
    - `"zero"`: the same weights of 2 n, on the signal followed by n zeros, first n rows.

    `L` is symmetric, so it delays nothing. Constants stay constant under `"circular"` and `"reflect"`.

    Args:
        n: Number of samples on the axis.
        stride: Factor of the downsampling to come. 1 gives the identity.
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.

    Returns:
        float64 tensor of shape (n, n) on the CPU.

    Raises:
        TypeError: `n` or `stride` is no whole number.
        ValueError: `n` or `stride` is below 1, or the window or boundary is unknown.

    Reference:
        As `window_weights`; boundaries other than circular are this package's.

    Examples:
        >>> lowpass_matrix(4, stride=2, window="flc")
        tensor([[0.5000, 0.2500, 0.0000, 0.2500],
                [0.2500, 0.5000, 0.2500, 0.0000],
                [0.0000, 0.2500, 0.5000, 0.2500],
                [0.2500, 0.0000, 0.2500, 0.5000]], dtype=torch.float64)
    """
    n, stride, boundary = check_count("n", n), check_count("stride", stride), as_boundary(boundary)
    if stride == 1:
        as_window(window)
        return torch.eye(n, dtype=torch.float64, device="cpu")
    if boundary is Boundary.CIRCULAR:
        return _circulant(window_weights(n, stride, window))
    full = _circulant(window_weights(2 * n, stride, window))
    kept = full[:n, :n]
    if boundary is Boundary.ZERO:
        # A single sample has no frequency to remove: it passes through, where the definition would halve it.
        return kept.contiguous() if n > 1 else torch.ones_like(kept)
    # Sample j of the mirrored half is sample 2 n - 1 - j of the doubled signal.
    return kept + full[:n, n:].flip(1)


def pool_matrix(
    n: int, stride: int = 2, window: WindowName | Window = "asap", boundary: BoundaryName | Boundary = "circular"
) -> torch.Tensor:
    """The pool `P = L[::stride]` of one axis: the samples a stride takes, of the low-passed signal.

    Args:
        n: Number of samples on the axis.
        stride: Downsampling factor. 1 gives the identity.
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.

    Returns:
        float64 tensor of shape (ceil(n / stride), n) on the CPU.

    Raises:
        TypeError, ValueError: As `lowpass_matrix`.

    Examples:
        >>> pool_matrix(4, stride=2, window="flc")
        tensor([[0.5000, 0.2500, 0.0000, 0.2500],
                [0.0000, 0.2500, 0.5000, 0.2500]], dtype=torch.float64)
    """
    return lowpass_matrix(n, stride, window, boundary)[::stride].contiguous()


def upsample_matrix(
    n: int, stride: int = 2, window: WindowName | Window = "flc", boundary: BoundaryName | Boundary = "circular"
) -> torch.Tensor:
    """The transpose of the pool of `n stride` samples, times the stride: n samples become `n stride`.

    It puts `stride - 1` zeros after each sample, and low-passes: nothing is left above the Nyquist frequency of the n
    samples. Under `"circular"` with the window `"flc"` it interpolates: a signal that was band-limited before every
    s-th sample was taken of it comes back exactly.

    Args:
        n: Number of samples on the axis.
        stride: Factor of the enlargement. 1 gives the identity.
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.

    Returns:
        float64 tensor of shape (n stride, n) on the CPU.

    Raises:
        TypeError, ValueError: As `lowpass_matrix`.

    Examples:
        >>> upsample_matrix(2, stride=2)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 1.0000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    n, stride = check_count("n", n), check_count("stride", stride)
    return stride * pool_matrix(n * stride, stride, window, boundary).T.contiguous()
