"""Applies one matrix per axis to the last two axes of a tensor, with the matrices cached.

`y = R_h x R_w^T` is all that runs in a network. The matrices are constants: they are built in float64 from
`timm_asap.spectral`, cast once, kept in a bounded cache, and never enter a state dict.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensor

from timm_asap.spectral import lowpass_matrix, pool_matrix

T = TypeVar("T")

# Enough for every site of a network at several image sizes in two dtypes; 224 x 224 in float32 is 200 KB.
_CACHED_MATRICES = 256

_BUILDERS = {"lowpass": lowpass_matrix, "pool": pool_matrix}


def _in_fresh_thread(fn: Callable[[], T]) -> T:
    """The result of fn, free of what the calling thread is in the middle of.

    Inference mode, fake and meta tensor modes, `torch.func` transforms, autocast and the default device all belong
    to a thread. A constant that one of them wrapped would break its next user ("Inference tensors cannot be saved
    for backward"); a thread of its own has none of them, by public means.
    """
    result: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(fn())
        except BaseException as e:  # handed to the caller below
            error.append(e)

    thread = threading.Thread(target=run, name="timm_asap-matrix")
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]


@lru_cache(maxsize=_CACHED_MATRICES)
def _build(
    kind: str, n: int, stride: int, window: str, boundary: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    return _in_fresh_thread(
        lambda: (
            _BUILDERS[kind](n, stride, window, boundary).to(device=device, dtype=dtype).requires_grad_(False)
        )
    )


@torch.compiler.assume_constant_result
def _constant(
    kind: str, n: int, stride: int, window: str, boundary: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    return _build(kind, n, stride, window, boundary, dtype, device)


def axis_matrix(
    kind: str, n: int, stride: int, window: str, boundary: str, x: torch.Tensor
) -> torch.Tensor | None:
    """The matrix of one axis in the dtype and on the device of `x`; None where it is the identity.

    Args:
        kind: `"lowpass"` (n x n) or `"pool"` (ceil(n / stride) x n).
        n: Size of the axis. A symbolic size is specialised: the matrix is a constant of the compiled graph.
        stride: Downsampling factor of this axis.
        window: Window name.
        boundary: Boundary name.
        x: The tensor it will be applied to.
    """
    if stride == 1:
        return None
    n = operator.index(n)
    if isinstance(x, FakeTensor) and not x.fake_mode.allow_non_fake_inputs:
        # Shape propagation alone: the values do not matter, and a real constant would be refused.
        return x.new_empty((n if kind == "lowpass" else -(-n // stride), n))
    return _constant(kind, n, stride, window, boundary, x.dtype, x.device)


def _is_channels_last(x: torch.Tensor) -> bool:
    # By strides: `is_contiguous(memory_format=...)` is not available under vmap.
    return x.ndim == 4 and x.stride(1) == 1 and x.shape[1] > 1


def apply_axes(x: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None) -> torch.Tensor:
    """`rows @ x @ columns.T` over the last two axes; None leaves an axis alone.

    Args:
        x: (B, C, H, W) or (C, H, W).
        rows: (H', H) or None.
        columns: (W', W) or None.

    Returns:
        (..., H', W') in the dtype and memory format of `x`.
    """
    if _is_channels_last(x):
        return _apply_channels_last(x, rows, columns)
    if columns is not None:
        x = torch.matmul(x, columns.mT)
    if rows is not None:
        x = torch.matmul(rows, x)
    return x


def _apply_channels_last(
    x: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None
) -> torch.Tensor:
    x = x.permute(0, 2, 3, 1)
    if columns is not None:
        x = torch.matmul(columns, x)
    if rows is not None:
        batch, height, width, channels = x.shape
        x = torch.matmul(rows, x.reshape(batch, height, width * channels))
        x = x.view(batch, rows.shape[0], width, channels)
    return x.permute(0, 3, 1, 2)


def resample2d(
    x: torch.Tensor, kind: str, stride: tuple[int, int], window: str, boundary: str
) -> torch.Tensor:
    """Low-pass or pool the last two axes of `x`, each with its own stride. Arguments are trusted."""
    height, width = x.shape[-2:]
    rows = axis_matrix(kind, height, stride[0], window, boundary, x)
    columns = axis_matrix(kind, width, stride[1], window, boundary, x)
    return apply_axes(x, rows, columns)
