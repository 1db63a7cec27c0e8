"""Applies one matrix per axis to the last two axes of a tensor, with the matrices cached.

`y = R_h x R_w^T` is all that runs in a network. The matrices are constants: they are built in float64 from
`timm_asap.spectral`, cast once, kept in a bounded cache, and never enter a state dict.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from functools import lru_cache, reduce
from math import prod
from typing import NamedTuple, TypeVar

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
    kind: str,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    window: str,
    boundary: str,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """The matrix of one axis, or the Kronecker product of two."""

    def build() -> torch.Tensor:
        matrices = [_BUILDERS[kind](n, s, window, boundary) for n, s in zip(sizes, strides, strict=True)]
        return reduce(torch.kron, matrices).to(device=device, dtype=dtype)

    return _in_fresh_thread(build)


# torch.compile calls this while it traces, and keeps the result as a constant of the graph.
@torch.compiler.assume_constant_result
def _constant(*key: object) -> torch.Tensor:
    return _build(*key)


def _matrix(
    kind: str, sizes: tuple[int, ...], strides: tuple[int, ...], window: str, boundary: str, x: torch.Tensor
) -> torch.Tensor:
    """The cached matrix in the dtype and on the device of `x`."""
    if isinstance(x, FakeTensor) and not x.fake_mode.allow_non_fake_inputs:
        # Shape propagation alone: the values do not matter, and a real constant would be refused.
        rows = [_output_size(kind, n, s) for n, s in zip(sizes, strides, strict=True)]
        return x.new_empty((prod(rows), prod(sizes)))
    return _constant(kind, sizes, strides, window, boundary, x.dtype, x.device)


def _output_size(kind: str, n: int, stride: int) -> int:
    return n if kind == "lowpass" else -(-n // stride)


# Below, sizes decided by measurement on two CPU cores (AVX-512, float32, PyTorch 2.15): `benchmarks/pooling.py`.

# Multiply-adds per map up to which one product over the whole plane beats one product per axis: at 14 x 14 to 7 x 7
# it computes 4.7 times as much in 0.6 of the time, because products of 7 columns keep no core busy.
_DENSE_PLANE = 10_000
# Fewer channels than this keep the inner loop of a channels-last product too short: 3 channels of 224 x 224 take
# 3.8 ms by way of the contiguous format and 17.6 ms without.
_FEW_CHANNELS = 16


class _Operators(NamedTuple):
    """The two matrices of one call: which there are, and how large."""

    kind: str
    size: tuple[int, int]
    stride: tuple[int, int]
    window: str
    boundary: str

    @property
    def output_size(self) -> tuple[int, int]:
        return tuple(_output_size(self.kind, n, s) for n, s in zip(self.size, self.stride, strict=True))

    def resizes(self, axis: int) -> bool:
        """Whether the axis has a matrix other than the identity."""
        return self.stride[axis] > 1 and self.size[axis] > 1

    def fit_one_plane(self) -> bool:
        if not (self.resizes(0) and self.resizes(1)):
            return False
        return prod(self.size) * prod(self.output_size) <= _DENSE_PLANE

    def axis(self, axis: int, x: torch.Tensor) -> torch.Tensor:
        sizes, strides = (self.size[axis],), (self.stride[axis],)
        return _matrix(self.kind, sizes, strides, self.window, self.boundary, x)

    def plane(self, x: torch.Tensor) -> torch.Tensor:
        return _matrix(self.kind, self.size, self.stride, self.window, self.boundary, x)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether the channels of (B, C, H, W) lie closest in memory.

    By strides: `is_contiguous(memory_format=...)` is not available under vmap.
    """
    return x.ndim == 4 and x.stride(1) == 1 and x.shape[1] > 1


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """`x` with its channels closest in memory; unlike `contiguous(memory_format=...)`, under vmap too."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def resample2d(x: torch.Tensor, kind: str, stride: tuple[int, int], window: str, boundary: str) -> torch.Tensor:
    """`R_h x R_w^T` over the last two axes, R the low-pass or the pool. Arguments are trusted.

    Args:
        x: (B, C, H, W) or (C, H, W).
        kind: `"lowpass"` or `"pool"`.
        stride: Of the height and of the width.
        window: Window name.
        boundary: Boundary name.

    Returns:
        The low-passed or pooled maps, in the dtype and memory format of `x`.
    """
    # A symbolic size is specialised here: the matrix is a constant of the compiled graph.
    height, width = operator.index(x.shape[-2]), operator.index(x.shape[-1])
    operators = _Operators(kind, (height, width), stride, window, boundary)
    if not is_channels_last(x):
        return _apply(x, operators)
    if x.shape[1] < _FEW_CHANNELS:
        return to_channels_last(_apply(x.contiguous(), operators))
    return _apply_channels_last(x, operators)


def _apply(x: torch.Tensor, operators: _Operators) -> torch.Tensor:
    if operators.fit_one_plane():
        return torch.matmul(x.flatten(-2), operators.plane(x).mT).unflatten(-1, operators.output_size)
    if operators.resizes(1):
        x = torch.matmul(x, operators.axis(1, x).mT)
    if operators.resizes(0):
        x = torch.matmul(operators.axis(0, x), x)
    return x


def _apply_channels_last(x: torch.Tensor, operators: _Operators) -> torch.Tensor:
    x = x.permute(0, 2, 3, 1)
    if operators.resizes(0):
        batch, height, width, channels = x.shape
        x = torch.matmul(operators.axis(0, x), x.reshape(batch, height, width * channels))
        x = x.view(batch, operators.output_size[0], width, channels)
    if operators.resizes(1):
        x = torch.matmul(operators.axis(1, x), x)
    return x.permute(0, 3, 1, 2)
