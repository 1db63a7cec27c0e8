"""The operator as converted networks call it: over the trailing axes of a map, or any others, and watched on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import nn

from timm_asap.ops.resample import resample as _resample

__all__ = [
    "Filtered",
    "in_float",
    "in_parts",
    "is_hidden",
    "opaque_to_fx",
    "resample",
    "resample_axes",
    "unwatched",
    "watching_filters",
    "whole_batches",
]

Sizes = tuple[int, ...]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Filtered:
    """One call of the operator.

    Attributes:
        x: What it was given; the grid's axes last.
        y: What it gave.
        kind: `"lowpass"` or `"pool"`.
        stride: Per axis of the grid.
        window: Window name.
        boundary: Boundary name.
    """

    x: torch.Tensor
    y: torch.Tensor
    kind: str
    stride: Sizes
    window: str
    boundary: str


# Whoever watches a forward pass: empty outside `watching_filters`.
_watchers: list[Callable[[Filtered], None]] = []
_hiding: list[bool] = []
# Whoever looks at the calls of layers, and wants one for each batch: empty outside `whole_batches`.
_looking: list[bool] = []


@contextmanager
def watching_filters(watcher: Callable[[Filtered], None]) -> Iterator[None]:
    """Call `watcher` with every use of the operator in this context."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def whole_batches() -> AbstractContextManager:
    """A context in which every layer runs once on its whole batch, for code that looks at its calls."""
    return _marked(_looking)


def unwatched() -> AbstractContextManager:
    """A context of which no watcher sees the operations, for what is run and not used."""
    return _marked(_hiding) if _watchers else nullcontext()


@contextmanager
def _marked(marks: list[bool]) -> Iterator[None]:
    marks.append(True)
    try:
        yield
    finally:
        marks.pop()


def is_hidden() -> bool:
    """Whether this is in `unwatched`."""
    return bool(_hiding)


def opaque_to_fx(function: Callable[P, T]) -> Callable[P, T]:
    """One node of a graph that `torch.fx` traces symbolically: the function's sizes are not known then."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.fx.Proxy):
                return cast(
                    T, value.tracer.create_proxy("call_function", call, args, kwargs)
                )  # while a graph is traced
        return function(*args, **kwargs)

    return call


def in_float(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A function of a map; of an int8 map, its values, quantized again as they were."""
    if not x.is_quantized:
        return function(x)
    return torch.quantize_per_tensor(function(x.dequantize()), x.q_scale(), x.q_zero_point(), x.dtype)


# Measured in float32 on a CPU with AVX2 (PyTorch 2.14, CPU time of one thread): a low-pass and a depthwise convolution
# of 8 x 96 x 112 x 112, 37 MiB, take 0.6 of the time image by image, 0.75 to 0.9 with the gradient, and a max-pool of
# 49 MiB 0.4 and 0.7 to 0.9: glibc maps every tensor from 32 MiB on anew, and its first touch costs more than the
# product. Batches of 14 to 25 MiB gain nothing.
_LARGE = 32 * 2**20
_PART = 8 * 2**20


def in_parts(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, axes: int) -> torch.Tensor:
    """A function that treats every image of a batch by itself, run on a few images at a time where that is faster.

    Args:
        function: From maps (B, ...) to maps (B, ...).
        x: Maps (B, C, *grid); without B they are not divided.
        axes: Of the grid.
    """
    is_eager = type(x) in (torch.Tensor, nn.Parameter) and not (
        torch.compiler.is_compiling() or torch.jit.is_tracing() or _watchers or _looking
    )
    if not is_eager or x.device.type != "cpu" or x.ndim != axes + 2 or x.shape[0] < 2 or x.nbytes < _LARGE:
        return function(x)
    # The gradient of split is one concatenation; that of a slice would be a whole tensor of zeros for each part.
    return torch.cat([function(part) for part in x.split(max(1, x.shape[0] * _PART // x.nbytes))])


@opaque_to_fx
def resample(x: torch.Tensor, kind: str, stride: Sizes, window: str, boundary: str) -> torch.Tensor:
    """The low-pass or the pool over the last `len(stride)` axes of `x`. Arguments are trusted.

    Args:
        x: (..., *grid), with at least one axis before the grid's.
        kind: `"lowpass"` or `"pool"`.
        stride: Per axis of the grid.
        window: Window name.
        boundary: Boundary name.

    Returns:
        The low-passed or pooled maps, in the dtype and memory format of `x`.
    """
    y = in_float(lambda x: _resample(x, kind, stride, window, boundary), x)
    for watcher in _watchers:
        watcher(Filtered(x, y, kind, stride, window, boundary))
    return y


@opaque_to_fx
def resample_axes(x: torch.Tensor, kind: str, axes: Sizes, stride: Sizes, window: str, boundary: str) -> torch.Tensor:
    """`resample` over any one, two or three axes of `x`, which come back where they were.

    Args:
        x: A tensor with at least one axis that is not among `axes`.
        kind: `"lowpass"` or `"pool"`.
        axes: Axes of the grid, none negative, in rising order.
        stride: Per axis of the grid.
        window: Window name.
        boundary: Boundary name.
    """
    last = tuple(range(x.ndim - len(axes), x.ndim))
    if tuple(axes) == last:
        return resample(x, kind, stride, window, boundary)
    return resample(x.movedim(axes, last), kind, stride, window, boundary).movedim(last, axes)
