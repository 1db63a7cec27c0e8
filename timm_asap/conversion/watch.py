"""Watches one forward pass for every operation that changes the sampling of a map, whatever code it was written in.

What strides is what PyTorch runs. A dispatch mode sees each of its operations: those of layers, of functions called in
a `forward`, of compiled graphs and of extensions alike. Which module ran one, and in which line, is read off the Python
stack at that moment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from timm_asap.conversion.filtering import Filtered, is_hidden, unwatched, watching_filters
from timm_asap.conversion.functional import stepped_axes
from timm_asap.conversion.operations import (
    Blocks,
    Line,
    Operation,
    argument,
    merged_blocks,
    read_operation,
    reordered_parts,
    split_parts,
)

__all__ = ["Watcher", "module_at", "tensors_of", "undisturbed", "watch"]


_TORCH = str(Path(torch.__file__).parent) + os.sep
_OURS = str(Path(__file__).parent) + os.sep


# Operations that mix neighboring samples by other means than a kernel.
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
                self._blocks[y] = replace(blocks, parts=reordered_parts(blocks.parts, name, args))
            elif (found := read_operation(name, args, kwargs, y)) is not None:
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
            weight = argument(args, kwargs, 1, "weight")
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
        x, step = args[0], argument(args, kwargs, 4, "step", 1)
        if self._slice is not None and step > 1 and (self._slice.module, self._slice.lines) != self._origin():
            self._end_slice()  # a slice of a slice, by another line of code
        if self._slice is None:
            if not x.is_floating_point():
                return
            self._slice = _Slice(x, y, [1] * x.ndim, [0] * x.ndim, *self._origin())
        axis = argument(args, kwargs, 1, "dim", 0) % x.ndim
        self._slice.y = y
        self._slice.steps[axis] *= step
        self._slice.starts[axis] = argument(args, kwargs, 2, "start", 0) or 0

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
            parts = split_parts(tuple(x.shape), tuple(y.shape)) if x.is_floating_point() else None
            if parts:
                self._blocks[y] = Blocks(x, parts)
            return
        blocks = self._blocks[x]
        if more := split_parts(tuple(x.shape), tuple(y.shape)):
            parts = [blocks.parts[axis] if part == "whole" else (blocks.parts[axis][0], part) for axis, part in more]
            if all(blocks.parts[axis][1] == "whole" for axis, part in more if part != "whole"):
                self._blocks[y] = replace(blocks, parts=tuple(parts))
        elif stride := merged_blocks(blocks.parts, tuple(x.shape), tuple(y.shape)):
            shapes = (tuple(blocks.x.shape), tuple(y.shape))
            self._keep(Operation("rearrangement", name, tuple(stride), tuple(stride.values()), *shapes), blocks.x)

    def _read_windows(self, x: torch.Tensor, axis: int, y: torch.Tensor) -> None:
        blocks = self._blocks.get(x) or Blocks(x, tuple((i, "whole") for i in range(x.ndim)))
        parts = [(i, "block") if position == axis else (i, part) for position, (i, part) in enumerate(blocks.parts)]
        self._blocks[y] = Blocks(blocks.x, (*parts, (blocks.parts[axis][0], "within")))


@dataclass
class _Slice:
    """A slice, as far as it was seen."""

    x: torch.Tensor
    y: torch.Tensor
    steps: list[int]
    starts: list[int]
    module: str
    lines: tuple[Line, ...]


def module_at(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, as `get_submodule`, which scripted modules do not support."""
    for part in name.split(".") if name else ():
        inner = model._modules[part]
        if inner is None:
            raise AttributeError(f"{name}: there is no module")
        model = inner
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
        on_operation: As `Watcher`.
        on_filter: Likewise.

    Examples:
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
    return is_lazy(tensor)
