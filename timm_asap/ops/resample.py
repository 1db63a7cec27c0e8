"""Applies one matrix per axis to the last axes of a tensor, with the matrices cached.

`y = R_h x R_w^T`, with a matrix less or more for an axis less or more, is all that runs in a network. The matrices are
constants: they are built in float64 from `timm_asap.spectral`, cast once, kept in a bounded cache, and never enter a
state dict. Low-passes of large maps run by a Fourier transform instead, on a CPU, where that is faster. A graph of
`torch.compile` holds the whole product as one operator, `timm_asap::resample`; a graph that is exported holds the
arithmetic itself (`timm_asap.ops.traced`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import NamedTuple, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from timm_asap.ops.spectral import lowpass_matrix, pool_matrix, upsample_matrix, window_weights
from timm_asap.ops.traced import traced_matrix

T = TypeVar("T")

# Every layer of a network at several image sizes in two dtypes: 224 x 224 in float32 is 0.2 MB, 1310 x 1310 is 6.9 MB.
_CACHE_BYTES = 128 * 2**20

_BUILDERS: dict[str, Callable[..., torch.Tensor]] = {
    "lowpass": lowpass_matrix,
    "pool": pool_matrix,
    "upsample": upsample_matrix,
    # the diagonal of the circular low-pass in the basis of the Fourier transform
    "spectrum": lambda n, stride, window, boundary: window_weights(n, stride, window),
}


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


class _Key(NamedTuple):
    """What determines a matrix: of one axis, or of two for their Kronecker product."""

    kind: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    window: str
    boundary: str
    dtype: torch.dtype
    device: torch.device

    def build(self) -> torch.Tensor:
        """The matrix from its definition, rounded once."""

        def build() -> torch.Tensor:
            axes = zip(self.sizes, self.strides, strict=True)
            matrices = [_BUILDERS[self.kind](n, s, self.window, self.boundary) for n, s in axes]
            return reduce(torch.kron, matrices).to(device=self.device, dtype=self.dtype)

        return _in_fresh_thread(build)

    def empty(self, like: torch.Tensor) -> torch.Tensor:
        """A matrix of that shape without values, for shape propagation."""
        rows = [_output_size(self.kind, n, s) for n, s in zip(self.sizes, self.strides, strict=True)]
        return like.new_empty((prod(rows), prod(self.sizes)))


def _is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured: it will read the matrices from where they are now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _tell_stream(matrix: torch.Tensor) -> None:
    """Keep the memory of a matrix from being reused, once it is forgotten, before this stream has read it."""
    if matrix.is_cuda and not _is_capturing(matrix.device):
        stream = torch.cuda.current_stream(matrix.device)
        if stream != torch.cuda.default_stream(matrix.device):  # where matrices are made
            matrix.record_stream(stream)


class MatrixCache:
    """Matrices by key, those used last, up to a number of bytes. Safe to share between threads.

    What a CUDA graph was captured with is kept besides, until :meth:`clear`.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._matrices: OrderedDict[_Key, torch.Tensor] = OrderedDict()
        self._captured: dict[_Key, torch.Tensor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._matrices)

    def get(self, key: _Key) -> torch.Tensor:
        """The matrix of a key, built where it is not there. One that is larger than the cache is not kept.

        Raises:
            RuntimeError: A CUDA graph is being captured, and the matrix is not there: building it would break it.
        """
        is_capturing = _is_capturing(key.device)
        with self._lock:
            matrix = self._captured.get(key)
            if key in self._matrices:
                self._matrices.move_to_end(key)
                matrix = self._matrices[key]
                if is_capturing:
                    self._captured[key] = matrix
        if matrix is not None:
            _tell_stream(matrix)
            return matrix
        if is_capturing:
            shown = "x".join(map(str, key.sizes))
            raise RuntimeError(
                f"timm_asap: the first {key.kind} of a map of {shown} came while a CUDA graph was captured; run the "
                "model once at that size before the capture"
            )
        matrix = key.build()  # outside the lock: two threads may build the same matrix, and one is kept
        with self._lock:
            if key not in self._matrices and matrix.nbytes <= self.max_bytes:
                self._matrices[key] = matrix
                self.bytes += matrix.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._matrices.popitem(last=False)[1].nbytes
        _tell_stream(matrix)
        return matrix

    def clear(self) -> None:
        """Forget every matrix; graphs captured before must not run again."""
        with self._lock:
            self._matrices.clear()
            self._captured.clear()
            self.bytes = 0


matrix_cache = MatrixCache(_CACHE_BYTES)


def _matrix(
    kind: str, sizes: tuple[int, ...], strides: tuple[int, ...], window: str, boundary: str, x: torch.Tensor
) -> torch.Tensor:
    """The matrix on the device of `x`, in the dtype of the product: autocast would cast it at every call."""
    dtype = _product_dtype(x)
    if (
        torch.compiler.is_dynamo_compiling()
        or torch.jit.is_tracing()
        or any(isinstance(n, torch.SymInt) for n in sizes)
    ):
        # the graph leaves this process: it has to hold the matrix itself, for any size
        axes = zip(sizes, strides, strict=True)
        return reduce(torch.kron, [traced_matrix(kind, n, s, window, boundary, dtype, x.device) for n, s in axes])
    key = _Key(kind, sizes, strides, window, boundary, dtype, x.device)
    if isinstance(x, FakeTensor) and not x.fake_mode.allow_non_fake_inputs:
        return key.empty(x).to(dtype)  # the values do not matter, and a real constant would be refused
    return matrix_cache.get(key)


def _output_size(kind: str, n: int, stride: int) -> int:
    if kind == "upsample":
        return n * stride
    return n if kind == "lowpass" else (n + stride - 1) // stride


# Below, sizes decided by measurement on two CPU cores (AVX-512, float32, PyTorch 2.15): `benchmarks/pooling.py`.

# Multiply-adds per map up to which one product over the whole plane beats one product per axis: at 14 x 14 to 7 x 7
# it computes 4.7 times as much in 0.6 of the time, because products of 7 columns keep no core busy.
_DENSE_PLANE = 10_000
# Fewer channels than this keep the inner loop of a channels-last product too short: 3 channels of 224 x 224 take
# 3.8 ms by way of the contiguous format and 17.6 ms without.
_FEW_CHANNELS = 16
# Samples per axis from which a Fourier transform beats the matrices, in float32 on a CPU with AVX2: a low-pass of
# 3 x 224 x 224 takes 0.57 of the time, of 3 x 512 x 512 0.45, of 3 x 1024 x 1024 0.28, of 64 x 256 x 256 0.91; at 192
# it is won or lost by the run, at 112 it takes 1.6 times as long, and sizes with large prime factors gain nothing.
_LARGE_AXIS = 224


def is_known(condition: bool | torch.SymBool | torch.Tensor) -> bool:
    """Whether a condition on sizes holds whatever the size is: a traced graph must not depend on the example's.

    "No" is always a right answer: the general form follows. torch.compile gets it, because not all of its releases can
    be asked.
    """
    if torch.compiler.is_dynamo_compiling() or isinstance(condition, torch.Tensor):
        return False
    return statically_known_true(condition)


@dataclass(eq=False)  # PyTorch 2.7's compiler follows one, and stumbles over a NamedTuple
class _Operators:
    """The matrices of one call, one per axis of the grid: which there are, and how large.

    Transposed, they are those of the gradient: from the grid of the output back to `size`.
    """

    kind: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    window: str
    boundary: str
    transposed: bool = False

    @property
    def output_size(self) -> tuple[int, ...]:
        if self.transposed:
            return self.size
        return tuple(_output_size(self.kind, n, s) for n, s in zip(self.size, self.stride, strict=True))

    def resizes(self, axis: int) -> bool:
        """Whether the axis has a matrix other than the identity."""
        return self.stride[axis] > 1 and (self.kind == "upsample" or not is_known(self.size[axis] == 1))

    def fit_one_plane(self) -> bool:
        if len(self.size) != 2 or not (self.resizes(0) and self.resizes(1)):
            return False
        # A list: torch.export traces no generator into `prod`.
        outputs = prod([_output_size(self.kind, n, s) for n, s in zip(self.size, self.stride, strict=True)])
        return is_known(prod(self.size) * outputs <= _DENSE_PLANE)

    def axes(self, x: torch.Tensor) -> list[torch.Tensor | None]:
        """The matrix of every axis, None for the identity; equal axes share one, so that a graph holds it once."""
        matrices: list[torch.Tensor | None] = []
        for axis in range(len(self.size)):
            n, stride = self.size[axis], self.stride[axis]
            alike = [i for i in range(axis) if self.stride[i] == stride and is_known(self.size[i] == n)]
            if not self.resizes(axis):
                matrices.append(None)
            elif alike:
                matrices.append(matrices[alike[0]])
            else:
                matrices.append(self._matrix((n,), (stride,), x))
        return matrices

    def plane(self, x: torch.Tensor) -> torch.Tensor:
        """The Kronecker product of both axes' matrices."""
        return self._matrix(self.size, self.stride, x)

    def _matrix(self, sizes: tuple[int, ...], strides: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
        matrix = _matrix(self.kind, sizes, strides, self.window, self.boundary, x)
        return matrix.transpose(0, 1) if self.transposed else matrix


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether the channels of (B, C, H, W) or (B, C, D, H, W) lie closest in memory.

    By strides: `is_contiguous(memory_format=...)` is not available under vmap. A trace by `torch.jit.trace` is for any
    memory format: no.
    """
    return not torch.jit.is_tracing() and x.ndim in (4, 5) and x.stride(1) == 1 and x.shape[1] > 1


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """`x` with its channels closest in memory; unlike `contiguous(memory_format=...)`, under vmap too."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def resample(x: torch.Tensor, kind: str, stride: tuple[int, ...], window: str, boundary: str) -> torch.Tensor:
    """`R_h x R_w^T` over the last axes, as many as strides; R is the low-pass, the pool or its transpose.

    Arguments are trusted.

    Args:
        x: (B, C, *grid) or (C, *grid), the grid of one, two or three axes.
        kind: `"lowpass"`, `"pool"` or `"upsample"`.
        stride: Of every axis of the grid.
        window: Window name.
        boundary: Boundary name.

    Returns:
        The low-passed or pooled maps, in the dtype and memory format of `x`.
    """
    size = tuple(x.shape[-len(stride) :])
    # The flag, not torch.compiler.is_exporting(): until PyTorch 2.11 torch.compile takes that for true.
    if torch.compiler.is_dynamo_compiling() and not torch.compiler._is_exporting_flag:
        return _compiled_resample(_autocast(x), size, kind, stride, window, boundary, False)
    return _apply(x, _Operators(kind, size, stride, window, boundary))


def _apply(x: torch.Tensor, operators: _Operators) -> torch.Tensor:
    if not _stays_channels_last(x, operators):
        return _apply_contiguous(x, operators)
    if x.ndim == 5 or x.shape[1] < _FEW_CHANNELS:
        return to_channels_last(_apply_contiguous(x.contiguous(), operators))
    return _apply_channels_last(x, operators)


def _stays_channels_last(x: torch.Tensor, operators: _Operators) -> bool:
    return is_channels_last(x) and x.ndim == len(operators.size) + 2


def _suits_fourier(x: torch.Tensor, operators: _Operators) -> bool:
    """Whether the product is a low-pass that a Fourier transform does faster; matrices are for all else."""
    if operators.kind != "lowpass" or operators.boundary != "circular" or len(operators.size) != 2:
        return False
    if x.dtype not in (torch.float32, torch.float64) or x.device.type != "cpu" or isinstance(x, FakeTensor):
        return False
    if torch.compiler.is_dynamo_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return False
    axes = zip(operators.size, operators.stride, strict=True)
    return all(type(n) is int and s > 1 and n >= _LARGE_AXIS and _has_small_factors(n) for n, s in axes)


def _has_small_factors(n: int) -> bool:
    for factor in (2, 3, 5, 7):
        while n % factor == 0:
            n //= factor
    return n == 1


def _apply_fourier(x: torch.Tensor, operators: _Operators) -> torch.Tensor:
    keys = [
        _Key("spectrum", (n,), (s,), operators.window, operators.boundary, x.dtype, x.device)
        for n, s in zip(operators.size, operators.stride, strict=True)
    ]
    rows, columns = map(matrix_cache.get, keys)
    spectrum = torch.fft.rfft2(x)
    return torch.fft.irfft2(spectrum * (rows[:, None] * columns[: spectrum.shape[-1]]), s=operators.size)


def _apply_contiguous(x: torch.Tensor, operators: _Operators) -> torch.Tensor:
    if _suits_fourier(x, operators):
        return _apply_fourier(x, operators)
    if operators.fit_one_plane():
        return torch.matmul(x.flatten(-2), operators.plane(x).transpose(0, 1)).unflatten(-1, operators.output_size)
    *others, last = operators.axes(x)
    if last is not None:
        x = torch.matmul(x, last.transpose(0, 1))
    if others and others[-1] is not None:
        x = torch.matmul(others[-1], x)
    if len(others) > 1 and others[0] is not None:
        grid = x.shape[-2:]
        x = torch.matmul(others[0], x.flatten(-2)).unflatten(-1, grid)
    return x


def _apply_channels_last(x: torch.Tensor, operators: _Operators) -> torch.Tensor:
    height, width = operators.axes(x)
    x = x.permute(0, 2, 3, 1)
    if height is not None:
        batch, rows, columns, channels = x.shape
        x = torch.matmul(height, x.reshape(batch, rows, columns * channels))
        x = x.view(batch, operators.output_size[0], columns, channels)
    if width is not None:
        x = torch.matmul(width, x)
    return x.permute(0, 3, 1, 2)


# A tracer has its own ways with constants in every release; an operator with a fake and a gradient is the documented
# one, and one node for any size. The product itself as well, because inductor stumbles over its views: "cannot
# determine truth value of Relational" in training over sizes, PyTorch 2.14.


@torch.library.custom_op(
    "timm_asap::resample",
    mutates_args=(),
    schema="(Tensor x, SymInt[] size, str kind, int[] stride, str window, str boundary, bool transposed) -> Tensor",
)
def _compiled_resample(
    x: torch.Tensor,
    size: Sequence[int],
    kind: str,
    stride: Sequence[int],
    window: str,
    boundary: str,
    transposed: bool,
) -> torch.Tensor:
    operators = _Operators(kind, tuple(size), tuple(stride), window, boundary, transposed)
    y = _apply(x, operators)
    y = to_channels_last(y) if _stays_channels_last(x, operators) else y.contiguous()
    return y.clone() if y.data_ptr() == x.data_ptr() else y  # an operator must not return its input


@_compiled_resample.register_fake
def _(x, size, kind, stride, window, boundary, transposed):
    operators = _Operators(kind, tuple(size), tuple(stride), window, boundary, transposed)
    if _stays_channels_last(x, operators):
        return x.new_empty((x.shape[0], *operators.output_size, x.shape[1])).movedim(-1, 1)
    return x.new_empty((*x.shape[: -len(size)], *operators.output_size))


def _keep_arguments(ctx, inputs, output):
    _, ctx.size, *ctx.names, ctx.transposed = inputs


def _transposed_product(ctx, grad):
    return _compiled_resample(grad, ctx.size, *ctx.names, not ctx.transposed), *[None] * 6


_compiled_resample.register_autograd(_transposed_product, setup_context=_keep_arguments)


@_compiled_resample.register_vmap
def _(info, in_dims, x, *arguments):
    x = x.movedim(in_dims[0], 0)
    one_batch = x.flatten(0, -2 - len(arguments[0]))
    return _compiled_resample(one_batch, *arguments).unflatten(0, x.shape[: -1 - len(arguments[0])]), 0


def _product_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of a product with `x`: autocast's, where it is on."""
    device = x.device.type
    # meta tensors have no autocast
    if device == "meta" or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _autocast(x: torch.Tensor) -> torch.Tensor:
    """What autocast makes of the operand of a product; it does not look into an operator."""
    return x.to(_product_dtype(x))
