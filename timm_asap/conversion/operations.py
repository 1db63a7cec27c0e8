"""Which calls of PyTorch change the sampling of a map: read off their names, arguments and sizes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import torch

from timm_asap.conversion.functional import shrinking

__all__ = [
    "Blocks",
    "Line",
    "Operation",
    "Sizes",
    "argument",
    "merged_blocks",
    "read_operation",
    "reordered_parts",
    "split_parts",
]


Sizes = tuple[int, ...]
Line = tuple[str, int, int]
"""File, line and number of the instruction."""


@dataclass
class Operation:
    """One operation that made a grid coarser, or finer.

    Attributes:
        kind: "convolution", "max-pool", "average pool", "slice", "resize", "rearrangement", "unknown" and so on.
        function: The operation's name, such as `aten::convolution`.
        axes: The axes of the input that are the grid's.
        stride: By how much each shrinks; the next whole number where that is none. For operations that upsample, by
            how much each grows.
        input_shape: Of the input.
        output_shape: Of the output.
        module: Name of the innermost registered module that ran it; empty for the root.
        lines: File, line and instruction of every frame of code on the stack that is neither PyTorch's nor this
            package's, from the innermost to that module's.
        upsamples: The grid becomes finer.
        on_image: No filter or layer with a kernel lies between the image and this operation: it is a stem.
        filters_itself: It is a low-pass and a stride in one that PyTorch calls antialiased.
        x: The input itself, while the pass is watched.
        arguments: What else the operation was called with, while the pass is watched.
    """

    kind: str
    function: str
    axes: Sizes
    stride: Sizes
    input_shape: Sizes
    output_shape: Sizes
    module: str = ""
    lines: tuple[Line, ...] = ()
    _: KW_ONLY
    upsamples: bool = False
    on_image: bool = False
    filters_itself: bool = False
    x: torch.Tensor | None = field(default=None, repr=False)
    arguments: tuple = field(default=(), repr=False)

    @property
    def where(self) -> str:
        """The innermost line of code, as a report shows it."""
        return f"{Path(self.lines[0][0]).name}:{self.lines[0][1]}" if self.lines else ""

    @property
    def sizes(self) -> tuple[Sizes, Sizes]:
        """The grid before and after; that after may lie elsewhere, for what rearranges."""
        before, after = (tuple(shape[axis] for axis in self.axes) for shape in (self.input_shape, self.output_shape))
        return before, after

    @property
    def is_fractional(self) -> bool:
        """Whether a pool or an interpolation that is told its output's size shrinks an axis by no whole factor."""
        if self.upsamples or not self.kind.startswith(("adaptive", "fractional", "resize")):
            return False
        return any(n > out and n % out for n, out in zip(*self.sizes, strict=True))

    @property
    def factor(self) -> str:
        """The stride, as a report shows it."""
        return str(self.stride[0]) if len(set(self.stride)) == 1 else "x".join(map(str, self.stride))


def _last_axes(x: torch.Tensor, count: int) -> Sizes:
    return tuple(range(x.ndim - count, x.ndim))


def argument(args: tuple, kwargs: dict[str, Any], index: int, name: str, default: Any = None) -> Any:
    """An argument of a call, by position or by name."""
    return args[index] if len(args) > index else kwargs.get(name, default)


def _full(value: Any, count: int) -> Sizes:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * count if len(values) == 1 else values


def _resized(kind: str, name: str, x: torch.Tensor, y: torch.Tensor, axes: Sizes, **more: Any) -> Operation | None:
    """An operation known by the sizes before and after."""
    before, after = (tuple(t.shape[axis] for axis in axes) for t in (x, y))
    shape = (tuple(x.shape), tuple(y.shape))
    if any(out < n for n, out in zip(before, after, strict=True)):
        return Operation(kind, name, axes, shrinking(before, after), *shape, **more)
    if any(out > n for n, out in zip(before, after, strict=True)):
        return Operation(kind, name, axes, shrinking(after, before), *shape, upsamples=True, **more)
    return None


_POOLS = {"max_pool": "max-pool", "avg_pool": "average pool", "fractional_max_pool": "fractional max-pool"}


def read_operation(name: str, args: tuple, kwargs: dict[str, Any], y: torch.Tensor) -> Operation | None:
    """The operation that one call of PyTorch is, if it changes the sampling of a map."""
    x = args[0]
    space, _, op = name.partition("::")
    if space == "aten":
        op = op.strip("_")
        if "conv" in op and "backward" not in op:
            return _read_convolution(name, op, args, kwargs, y)
        if "adaptive" in op and "pool" in op:
            axes = _last_axes(x, int(op[op.index("pool") + 4]))
            axes = tuple(axis for axis in axes if y.shape[axis] > 1)  # what is pooled to one sample is not sampled
            return _resized("adaptive max-pool" if "max" in op else "adaptive average pool", name, x, y, axes)
        for prefix, kind in _POOLS.items():
            if op.removeprefix("mkldnn_").removeprefix("quantized_").startswith(prefix):
                axes = _last_axes(x, int(op[op.index("pool") + 4]))
                if kind == "fractional max-pool":
                    return _resized(kind, name, x, y, axes)
                kernel = _full(argument(args, kwargs, 1, "kernel_size"), len(axes))
                stride = _full(argument(args, kwargs, 2, "stride") or kernel, len(axes))
                return _strided(kind, name, x, y, axes, stride)
        if op.startswith("upsample_"):
            filters = op.endswith("_aa")
            return _resized("resize", name, x, y, _last_axes(x, x.ndim - 2), filters_itself=filters)
        if op == "pixel_unshuffle":
            return _strided("rearrangement", name, x, y, _last_axes(x, 2), (args[1],) * 2)
        if op == "pixel_shuffle":
            axes, shape = _last_axes(x, 2), (tuple(x.shape), tuple(y.shape))
            return Operation("rearrangement", name, axes, (args[1],) * 2, *shape, upsamples=True)
        if op == "im2col":
            return _strided("patches", name, x, y, _last_axes(x, 2), _full(argument(args, kwargs, 4, "stride"), 2))
        if op in ("index_select", "index"):
            return _read_index(name, op, args, y)
        if op == "unfold" and x.ndim >= 3 and args[3] > args[2]:  # others are windows, which keep every sample
            return Operation("patches", name, (args[1] % x.ndim,), (args[3],), tuple(x.shape), tuple(y.shape))
        return None
    if "deform_conv" in op:
        stride = tuple(a for a in args if isinstance(a, int) and not isinstance(a, bool))[:2]
        return _strided("deformable convolution", name, x, y, _last_axes(x, 2), stride)
    if space.startswith("quantized") and "conv" in op and hasattr(args[1], "stride"):
        stride = tuple(args[1].stride())
        return _strided("convolution", name, x, y, _last_axes(x, len(stride)), stride)
    # Operations of extensions are known by their sizes alone, and only those that look like a map's.
    if x.ndim == y.ndim and x.ndim in (4, 5) and x.shape[0] == y.shape[0]:
        return _resized("unknown operation", name, x, y, _last_axes(x, x.ndim - 2))
    return None


def _read_index(name: str, op: str, args: tuple, y: torch.Tensor) -> Operation | None:
    """Every s-th sample of an axis, taken by a list of their numbers."""
    x = args[0]
    indices = {args[1] % x.ndim: args[2]} if op == "index_select" else dict(enumerate(args[1]))
    steps = [1] * x.ndim
    for axis, index in indices.items():
        if isinstance(index, torch.Tensor) and index.ndim == 1 and len(index) > 1 and not index.is_meta:
            apart = index.diff() if index.dtype in (torch.int64, torch.int32) else None
            if apart is not None and bool((apart == apart[0]).all()):
                steps[axis] = int(apart[0].abs())
    axes = tuple(axis for axis in range(2, x.ndim) if steps[axis] > 1)
    if not axes or not x.is_floating_point():
        return None
    return Operation("indexing", name, axes, tuple(steps[axis] for axis in axes), tuple(x.shape), tuple(y.shape))


def _strided(kind: str, name: str, x: torch.Tensor, y: torch.Tensor, axes: Sizes, stride: Sizes) -> Operation | None:
    if max(stride) == 1:
        return None
    return Operation(kind, name, axes, tuple(stride), tuple(x.shape), tuple(y.shape))


def _read_convolution(name: str, op: str, args: tuple, kwargs: dict[str, Any], y: torch.Tensor) -> Operation | None:
    x, weight = args[0], argument(args, kwargs, 1, "weight")
    if not isinstance(weight, torch.Tensor):
        return None
    count = weight.ndim - 2
    stride = _full(argument(args, kwargs, 3, "stride", 1), count)
    if not all(isinstance(s, int) for s in stride):
        return None
    found = _strided("convolution", name, x, y, _last_axes(x, count), stride)
    transposed = "transpose" in op or (op == "convolution" and argument(args, kwargs, 6, "transposed", False))
    if found is not None and transposed:
        found.kind, found.upsamples = "transposed convolution", True
    return found


@dataclass
class Blocks:
    """A map split into blocks: for every axis now, the axis of the map and which part of it."""

    x: torch.Tensor
    parts: tuple[tuple[int, str], ...]


def split_parts(before: Sizes, after: Sizes) -> tuple[tuple[int, str], ...] | None:
    """The parts of a reshape that splits up to three axes into (blocks, samples within) and leaves the rest."""
    if not 3 <= len(before) <= 7 or len(after) - len(before) not in (1, 2, 3):
        return None
    parts: list[tuple[int, str]] = []
    position = 0
    for axis, n in enumerate(before):
        if position < len(after) and after[position] == n:
            parts.append((axis, "whole"))
            position += 1
        elif position + 1 < len(after) and after[position] * after[position + 1] == n and axis > 0:
            parts += [(axis, "block"), (axis, "within")]
            position += 2
        else:
            return None
    return tuple(parts) if position == len(after) else None


def reordered_parts(parts: tuple, name: str, args: tuple) -> tuple:
    """The parts of a map split into blocks, after a permutation or a transposition of its axes."""
    if name == "aten::permute":
        return tuple(parts[axis] for axis in args[1])
    if name == "aten::transpose":
        order = list(parts)
        first, second = args[1], args[2]
        order[first], order[second] = order[second], order[first]
        return tuple(order)
    return parts


def merged_blocks(parts: tuple[tuple[int, str], ...], before: Sizes, after: Sizes) -> dict[int, int]:
    """By axis of the map, the block's size, where a reshape merges what is within a block into the channels.

    Windows of attention, whose blocks go to the batch, and blocks that stay an axis of their own are none.
    """
    groups: list[list[int]] = []
    position = 0
    for n in after:
        group, size = [], 1
        while position < len(before) and (size < n or before[position] == 1):
            size *= before[position]
            group.append(position)
            position += 1
        if size != n:
            return {}
        groups.append(group)
    for group in groups:
        members = [parts[i] for i in group]
        within = {axis: before[i] for i, (axis, part) in zip(group, members, strict=True) if part == "within"}
        others = [axis for axis, part in members if part == "whole"]
        split = {axis for axis, part in parts if part == "within"}
        if set(within) == split and others and 0 not in others and not any(part == "block" for _, part in members):
            batch = next(g for g in groups if any(parts[i] == (0, "whole") for i in g))
            # One axis alone might as well be the channels, that move into the grid.
            if len(within) > 1 and not any(parts[i][1] == "block" for i in batch):
                return dict(sorted(within.items()))
    return {}
