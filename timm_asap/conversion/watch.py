"""Watches one forward pass for every operation that changes the sampling of a map, whatever code it was written in.

The truth about what strides is what PyTorch runs. A dispatch mode sees each of its operations: those of layers, of
functions called in a `forward`, of compiled graphs and of extensions alike. Which module ran one, and in which line, is
read off the Python stack at that moment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from timm_asap.conversion.filtering import Filtered, is_hidden, unwatched, watching_filters
from timm_asap.conversion.functional import shrinking, stepped_axes

__all__ = ["Operation", "Watcher", "module_at", "tensors_of", "undisturbed", "watch"]

Sizes = tuple[int, ...]
Line = tuple[str, int, int]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_OURS = str(Path(__file__).parent) + os.sep


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
        return tuple(tuple(shape[axis] for axis in self.axes) for shape in (self.input_shape, self.output_shape))

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


def _argument(args: tuple, kwargs: dict[str, Any], index: int, name: str, default: Any = None) -> Any:
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


def _read(name: str, args: tuple, kwargs: dict[str, Any], y: torch.Tensor) -> Operation | None:
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
                kernel = _full(_argument(args, kwargs, 1, "kernel_size"), len(axes))
                stride = _full(_argument(args, kwargs, 2, "stride") or kernel, len(axes))
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
            return _strided("patches", name, x, y, _last_axes(x, 2), _full(_argument(args, kwargs, 4, "stride"), 2))
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
    x, weight = args[0], _argument(args, kwargs, 1, "weight")
    if not isinstance(weight, torch.Tensor):
        return None
    count = weight.ndim - 2
    stride = _full(_argument(args, kwargs, 3, "stride", 1), count)
    if not all(isinstance(s, int) for s in stride):
        return None
    found = _strided("convolution", name, x, y, _last_axes(x, count), stride)
    transposed = "transpose" in op or (op == "convolution" and _argument(args, kwargs, 6, "transposed", False))
    if found is not None and transposed:
        found.kind, found.upsamples = "transposed convolution", True
    return found


# Operations that mix neighbouring samples by other means than a kernel.
_PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::matmul", "aten::linear", "aten::einsum"}
# Operations after which an image is one still, though of another size.
_RESIZES = ("pad", "slice", "upsample", "narrow")
_SPLITS = ("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::unflatten", "aten::flatten")
_REORDERS = ("aten::permute", "aten::transpose", "aten::clone", "aten::contiguous")


class Watcher(TorchDispatchMode):
    """Lists the operations of one forward pass that change the sampling of a map.

    Args:
        model: The network; operations are attributed to its modules.
        images: The network's inputs: what reads them without a kernel in between is a stem.
        on_operation: Called with every operation while its tensors are at hand. What is not listed in the end was no
            downsampling after all: a slice of which other slices take the rest.
        on_filter: Called with every use of this package's operator, the name of the module that used it, and the lines.

    Attributes:
        operations: What was seen, in the order of the pass.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Any = (),
        on_operation: Callable[[Operation], None] | None = None,
        on_filter: Callable[[Filtered, str, tuple[Line, ...]], None] | None = None,
    ) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._modules = {id(m): name for name, m in reversed(list(model.named_modules(remove_duplicate=False)))}
        self._on_operation, self._on_filter = on_operation, on_filter
        self._filters = watching_filters(self._filtered)
        # Tensors that are the image still, but for what is done sample by sample.
        self._images: WeakIdKeyDictionary = WeakIdKeyDictionary()
        # A strided slice is seen axis by axis, a rearrangement of blocks as a split, a permutation and a merger.
        self._slice: _Slice | None = None
        self._blocks: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._phases: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._partial: list[tuple[Operation, set[int]]] = []
        for image in tensors_of(images):
            if image.is_floating_point() and image.ndim >= 2:
                self._images[image] = tuple(image.shape[2:] or image.shape[1:])

    def __enter__(self) -> Watcher:
        self._filters.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._filters.__exit__(*error)
        self._end_slice()
        # Rotary embeddings split channels into all their phases; who takes fewer has lost samples.
        self.operations += [found for found, phases in self._partial if len(phases) < found.stride[0]]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if is_hidden():
            return result
        name, x = func._schema.name, args[0] if args else None
        y = result[0] if isinstance(result, (tuple, list)) and result else result
        if self._slice is not None and not (name == "aten::slice" and x is self._slice.y):
            self._end_slice()
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.ndim >= 2:
            if name == "aten::slice":
                self._read_slice(args, kwargs, y)
            elif name in _SPLITS:
                self._read_reshape(name, x, y)
            elif name == "aten::unfold" and args[2] == args[3] > 1 and x.is_floating_point():
                self._read_windows(x, args[1] % x.ndim, y)
            elif name in _REORDERS and x in self._blocks:
                blocks = self._blocks[x]
                self._blocks[y] = replace(blocks, parts=_reordered(blocks.parts, name, args))
            elif (found := _read(name, args, kwargs, y)) is not None:
                self._keep(found, x, args)
        self._follow_images(name, args, kwargs, result)
        return result

    def _keep(self, found: Operation, x: torch.Tensor, arguments: tuple = (), listed: bool = True) -> None:
        if not found.lines and not found.module:
            found.module, found.lines = self._origin()
        found.on_image = found.on_image or x in self._images
        if listed:
            self.operations.append(found)
        if self._on_operation is not None:
            found.x, found.arguments = x, arguments
            self._on_operation(found)
            found.x, found.arguments = None, ()

    def _origin(self) -> tuple[str, tuple[Line, ...]]:
        """The innermost module on the Python stack, and the lines of code down to it."""
        lines: list[Line] = []
        module = None
        frame = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if not file.startswith((_TORCH, _OURS)):
                lines.append((file, frame.f_lineno, frame.f_lasti))
            if module is None:
                module = self._modules.get(id(frame.f_locals.get("self")))
            if module is not None and lines:
                break
            frame = frame.f_back
        return module or "", tuple(lines)

    def _filtered(self, call: Filtered) -> None:
        if call.kind == "lowpass" and call.x in self._images:
            self._images[call.y] = self._images[call.x]
        if self._on_filter is not None:
            origin = self._origin()
            with unwatched():
                self._on_filter(call, *origin)

    def _follow_images(self, name: str, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        grids = [self._images[t] for t in tensors_of(args) if t in self._images] if self._images else []
        if not grids or name in _PRODUCTS:
            return
        if "conv" in name or "pool" in name or name in ("aten::im2col", "aten::unfold"):
            weight = _argument(args, kwargs, 1, "weight")
            pointwise = isinstance(weight, torch.Tensor) and max(weight.shape[2:], default=1) == 1
            if not pointwise or "convolution" not in name:
                return
        resizes = any(word in name for word in _RESIZES)
        for y in tensors_of(result):
            if resizes and y.ndim > len(grids[0]):
                self._images[y] = tuple(y.shape[-len(grids[0]) :])
            elif all(n in y.shape for n in grids[0]):
                self._images[y] = grids[0]

    # What is seen in parts.

    def _read_slice(self, args: tuple, kwargs: dict[str, Any], y: torch.Tensor) -> None:
        x, step = args[0], _argument(args, kwargs, 4, "step", 1)
        if self._slice is not None and step > 1 and (self._slice.module, self._slice.lines) != self._origin():
            self._end_slice()  # a slice of a slice, by another line of code
        if self._slice is None:
            if not x.is_floating_point():
                return
            self._slice = _Slice(x, y, [1] * x.ndim, [0] * x.ndim, *self._origin())
        axis = _argument(args, kwargs, 1, "dim", 0) % x.ndim
        self._slice.y = y
        self._slice.steps[axis] *= step
        self._slice.starts[axis] = _argument(args, kwargs, 2, "start", 0) or 0

    def _end_slice(self) -> None:
        seen, self._slice = self._slice, None
        if seen is None or max(seen.steps) == 1:
            return
        axes, stride = stepped_axes(seen.steps, seen.x.ndim)
        single = tuple(axis for axis, step in enumerate(seen.steps) if step > 1 and axis > 1)
        shapes = (tuple(seen.x.shape), tuple(seen.y.shape))
        if axes:
            self._keep(Operation("slice", "aten::slice", axes, stride, *shapes, seen.module, seen.lines), seen.x)
        elif len(single) == 1:
            axis, step = single[0], seen.steps[single[0]]
            if seen.x not in self._phases:
                found = Operation("slice", "aten::slice", single, (step,), *shapes, seen.module, seen.lines)
                self._phases[seen.x] = set()
                self._partial.append((found, self._phases[seen.x]))
                self._keep(found, seen.x, listed=False)
            self._phases[seen.x].add(seen.starts[axis] % step)

    def _read_reshape(self, name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        if x not in self._blocks:
            parts = _split(tuple(x.shape), tuple(y.shape)) if x.is_floating_point() else None
            if parts:
                self._blocks[y] = _Blocks(x, parts)
            return
        blocks = self._blocks[x]
        if more := _split(tuple(x.shape), tuple(y.shape)):
            parts = [blocks.parts[axis] if part == "whole" else (blocks.parts[axis][0], part) for axis, part in more]
            if all(blocks.parts[axis][1] == "whole" for axis, part in more if part != "whole"):
                self._blocks[y] = replace(blocks, parts=tuple(parts))
        elif stride := _merged(blocks.parts, tuple(x.shape), tuple(y.shape)):
            shapes = (tuple(blocks.x.shape), tuple(y.shape))
            self._keep(Operation("rearrangement", name, tuple(stride), tuple(stride.values()), *shapes), blocks.x)

    def _read_windows(self, x: torch.Tensor, axis: int, y: torch.Tensor) -> None:
        blocks = self._blocks.get(x) or _Blocks(x, tuple((i, "whole") for i in range(x.ndim)))
        parts = [(i, "block") if position == axis else (i, part) for position, (i, part) in enumerate(blocks.parts)]
        self._blocks[y] = _Blocks(blocks.x, (*parts, (blocks.parts[axis][0], "within")))


@dataclass
class _Slice:
    """A slice, as far as it was seen."""

    x: torch.Tensor
    y: torch.Tensor
    steps: list[int]
    starts: list[int]
    module: str
    lines: tuple[Line, ...]


@dataclass
class _Blocks:
    """A map split into blocks: for every axis now, the axis of the map and which part of it."""

    x: torch.Tensor
    parts: tuple[tuple[int, str], ...]


def _split(before: Sizes, after: Sizes) -> tuple[tuple[int, str], ...] | None:
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


def _reordered(parts: tuple, name: str, args: tuple) -> tuple:
    if name == "aten::permute":
        return tuple(parts[axis] for axis in args[1])
    if name == "aten::transpose":
        order = list(parts)
        first, second = args[1], args[2]
        order[first], order[second] = order[second], order[first]
        return tuple(order)
    return parts


def _merged(parts: tuple[tuple[int, str], ...], before: Sizes, after: Sizes) -> dict[int, int]:
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


def module_at(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, as `get_submodule`, which scripted modules do not support."""
    for part in name.split(".") if name else ():
        model = model._modules[part]
    return model


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Every tensor in a tensor, or in nested tuples, lists and dictionaries of them."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for one in value for t in tensors_of(one)] if isinstance(value, (tuple, list)) else []


def as_call(example: Any) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword arguments of a model's `forward`, of a tensor, a tuple or a dictionary of them."""
    if isinstance(example, dict):
        return (), example
    return tuple(example) if isinstance(example, (tuple, list)) else (example,), {}


def watch(
    model: nn.Module,
    example: Any,
    on_operation: Callable[[Operation], None] | None = None,
    on_filter: Callable[[Filtered, str, tuple[Line, ...]], None] | None = None,
) -> list[Operation]:
    """Every operation of one forward pass that makes a grid coarser or finer, in the order of the pass.

    The pass runs in eval mode and without gradients; modes of training, buffers and random states are afterwards as
    before. Layers that wait for their first batch get it. Compiled models run uncompiled.

    Args:
        model: Any module.
        example: A tensor, a tuple of positional arguments or a dictionary of keyword arguments.
        on_operation: As :class:`Watcher`.
        on_filter: Likewise.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, x):
        ...         return nn.functional.max_pool2d(x, 2)
        >>> [(operation.kind, operation.stride) for operation in watch(Net(), torch.zeros(1, 3, 8, 8))]
        [('max-pool', (2, 2))]
    """
    args, kwargs = as_call(example)
    with undisturbed(model), Watcher(model, (args, kwargs), on_operation, on_filter) as watcher:
        model(*args, **kwargs)
    return watcher.operations


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients, after which training modes, buffers and random states are as before."""
    training = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers() if not _is_lazy(buffer)}
    stance = torch.compiler.set_stance("force_eager")
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.no_grad(), stance:
        try:
            for module in training:  # exported modules refuse eval(), and others do more in it than setting this
                module.training = False
            yield
        finally:
            for module, mode in training.items():
                module.training = mode
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


def _is_lazy(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedTensorMixin)
