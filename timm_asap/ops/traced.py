"""The matrices by tensor arithmetic: how they enter a graph that leaves this process.

Eager code multiplies by cached constants (`timm_asap.ops.resample`), which would tie a graph to one image size.
Arithmetic on the size is what every tracer follows: `torch.export` with a free height and width, and `torch.jit.trace`,
so that both ONNX exporters write files that take any size. It costs some thousand cosines and one gather for each size.
"""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["traced_matrix"]


def _window(window: str, frequency: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """The weights of `timm_asap.spectral.window_weights` for the kept frequencies, before the cut is halved."""
    phase = 2 * math.pi * frequency / size
    if window == "asap":
        return (0.54 + 0.46 * torch.cos(phase)).sqrt()
    if window == "hamming":
        return 0.54 + 0.46 * torch.cos(phase * stride)
    return torch.ones_like(phase)


def _is_one(n: Any) -> Any:
    """1 for an axis of one sample, else 0; a tensor where the size is one."""
    return (n == 1).to(n.dtype) if isinstance(n, torch.Tensor) else int(n == 1)


def traced_matrix(
    kind: str, n: int, stride: int, window: str, boundary: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """`lowpass_matrix`, `pool_matrix` or `upsample_matrix` by operations that a tracer records. Arguments are trusted.

    Args:
        kind: `"lowpass"`, `"pool"` or `"upsample"`.
        n: Number of samples on the axis: a number, a symbolic size, or the 0-dimensional tensor that
            `torch.jit.trace` gives for one.
        stride: Downsampling factor, at least 2.
        window: Window name.
        boundary: Boundary name.
        dtype: Of the result; the arithmetic runs in float64, or in float32 on devices without it.
        device: Of the result.

    Returns:
        Shape (n, n); (ceil(n / stride), n) for the pool; (n stride, n) for its transpose. Rounding differs
        from the constants' in the last place.
    """
    if kind == "upsample":
        return stride * traced_matrix("pool", n * stride, stride, window, boundary, dtype, device).transpose(0, 1)
    size = n if boundary == "circular" else 2 * n
    if boundary == "zero":  # a single sample passes through
        size = size - _is_one(n)
    real = torch.float32 if device.type == "mps" else torch.float64
    # The kept frequencies lie below half the sampling rate: each but the constant has a partner of equal weight.
    whole_k = torch.arange(size // (2 * stride) + 1, device=device)
    k = whole_k.to(real)
    partners = torch.where((whole_k == 0) | (2 * stride * whole_k == size), 1.0, 2.0).to(real)
    weights = _window(window, k, size, stride) * partners / size
    distance = torch.arange(size if boundary == "reflect" else n, device=device)
    turns = distance[:, None] * whole_k
    if real is torch.float32:
        turns = turns % size  # fewer digits: keep the cosine's argument below one turn (ONNX has no such operation)
    kernel = (torch.cos(2 * math.pi * turns.to(real) / size) * weights).sum(-1)
    rows, columns = torch.arange(0, n, stride if kind == "pool" else 1, device=device), torch.arange(n, device=device)
    matrix = kernel[(rows[:, None] - columns).abs()]
    if boundary == "reflect":
        matrix = matrix + kernel[rows[:, None] + columns + 1]
    return matrix.to(dtype)
