"""Forward passes on noise: what a network samples before conversion, and a proof that it aliases nothing after."""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import nn

from timm_asap._types import undeclared
from timm_asap.conversion.filtering import Filtered
from timm_asap.conversion.operations import Operation
from timm_asap.conversion.watch import tensors_of, watch
from timm_asap.ops.spectral import as_window, window_weights

__all__ = [
    "Checked",
    "LayerTrace",
    "Observation",
    "check_conversion",
    "observe",
    "observe_on_meta",
    "samples",
    "share_above",
    "trace_layers",
]


# Fraction of the energy above the cut that is rounding. Of low-passed noise, 7 to 112 samples, it was at most 2e-16,
# 6e-14, 2e-7 and 1.1e-5.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-8, torch.float16: 1e-4, torch.bfloat16: 1e-3}
# Channels of the first image that are looked at.
_CHANNELS = 8


@dataclass
class Checked:
    """What a check found.

    Attributes:
        failed: Converted modules that sample something above the cut, and what.
        missed: Operations that downsample unfiltered, in modules that are neither converted nor left.
    """

    failed: dict[str, str] = field(default_factory=dict)
    missed: list[Operation] = field(default_factory=list)


def check_conversion(model: nn.Module, example: Any, left: Collection[str]) -> Checked:
    """Run a converted model on noise and look at every map that an operation of it samples.

    A layer passes where the operation samples the very map that the low-pass gave, with or without padding around it,
    or one whose spectrum ends at the cut; and where the low-pass or the pool gave what the definition says, computed
    anew by a Fourier transform.

    Args:
        model: The converted model.
        example: An input; floating-point tensors are replaced by noise of the same shape.
        left: Names of modules that downsample as before, for a reason or because nothing can be done.
    """
    from timm_asap.conversion.strided import is_converted

    result = Checked()
    converted = {name for name, module in model.named_modules() if is_converted(module)}
    # The last low-pass of each module, until an operation has sampled it.
    last: defaultdict[str, list[Filtered]] = defaultdict(list)

    def on_filter(call: Filtered, name: str, lines: Any) -> None:
        if call.kind == "lowpass":
            last[name].append(call)
        if name in converted and not _is_right(call):
            result.failed.setdefault(name, f"its {call.kind} is not what the definition says: report this")

    def on_operation(operation: Operation) -> None:
        name = operation.module
        if operation.upsamples or operation.filters_itself or name in left:
            return
        if any(samples(operation, call) for call in last.pop(name, ())):
            return
        if name not in converted:
            result.missed.append(operation)
            return
        x = _input_of(operation)
        share = share_above(x, operation.axes, operation.stride)
        if share > _ROUNDING.get(x.dtype, 1e-3):
            shown = f"{100 * share:.1f} %" if share > 5e-4 else f"{share:.0e}"
            result.failed[name] = (
                f"{shown} of the energy that its {operation.kind} samples lies above the cut: what it computes before "
                "that undoes the low-pass"
            )

    listed = watch(model, _noise_like(example), on_operation, on_filter)
    result.missed = [operation for operation in result.missed if any(operation is one for one in listed)]
    return result


def _noise_like(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return value
        generator = torch.Generator().manual_seed(0)
        return torch.randn(value.shape, generator=generator).to(value.device, value.dtype)
    if isinstance(value, dict):
        return {key: _noise_like(one) for key, one in value.items()}
    return type(value)(map(_noise_like, value)) if isinstance(value, (tuple, list)) else value


def _input_of(operation: Operation) -> torch.Tensor:
    """The map that an operation sampled, which is at hand while the pass is watched."""
    if operation.x is None:
        raise RuntimeError(f"{operation.function}: looked at after the pass that it is part of")
    return operation.x


def samples(operation: Operation, call: Filtered) -> bool:
    """Whether an operation samples the map that a low-pass gave, perhaps padded."""
    # The operator's grid lies last; an operation's may lie elsewhere.
    x, y = (t.dequantize() if t.is_quantized else t for t in (_input_of(operation), call.y))
    x = x.movedim(operation.axes, tuple(range(-len(operation.axes), 0)))
    if x.ndim == y.ndim + 1 and x.shape[-2] == 1:  # PyTorch pools one axis as two, the first of one sample
        x = x.squeeze(-2)
    if x.ndim != y.ndim:
        return False
    axes = min(len(call.stride), len(operation.stride))
    pairs = zip(call.stride[-axes:], operation.stride[-axes:], strict=True)
    if any(mine < theirs for mine, theirs in pairs):
        return False
    room = [outer - inner for outer, inner in zip(x.shape, y.shape, strict=True)]
    if min(room) < 0 or any(room[: x.ndim - axes]):
        return False
    offsets = [sorted({0, n // 2, n - n // 2}) for n in room]
    for offset in itertools.product(*offsets):
        part = x[tuple(slice(o, o + n) for o, n in zip(offset, y.shape, strict=True))]
        if torch.equal(part, y):
            return True
    return False


def share_above(x: torch.Tensor, axes: tuple[int, ...], stride: tuple[int, ...]) -> float:
    """Fraction of the energy of a map above the new Nyquist frequency on any axis, the map taken as periodic.

    Args:
        x: The map; its first image and channels are looked at.
        axes: Axes of the grid.
        stride: Per axis of the grid.
    """
    x = x.dequantize() if x.is_quantized else x
    x = x.movedim(axes, tuple(range(-len(axes), 0)))
    x = x.flatten(0, -len(axes) - 1)[:_CHANNELS].to("cpu", torch.float64)
    dims = tuple(range(-len(axes), 0))
    energy = torch.fft.fftn(x, dim=dims).abs().square()
    kept = energy
    for dim, s in zip(dims, stride, strict=True):
        n = x.shape[dim]
        k = torch.arange(n)
        inside = 2 * s * torch.minimum(k, n - k) <= n
        kept = kept.index_select(dim, inside.nonzero().flatten())
    total = energy.sum()
    return float(1 - kept.sum() / total) if total > 0 else 0.0


def _is_right(call: Filtered) -> bool:
    """Whether the operator gave what its definition says, by a Fourier transform of one channel."""
    if min(call.x.shape) == 0 or call.x.is_meta or call.x.is_quantized:
        return True
    if call.kind == "upsample":
        return call.boundary != "circular" or _interpolates(call)
    axes = len(call.stride)
    index = (0,) * (call.x.ndim - axes)
    x, y = (t[index].to("cpu", torch.float64) for t in (call.x, call.y))
    for axis, stride in enumerate(call.stride):
        n = x.shape[axis]
        if stride == 1 or n == 1:
            continue
        if call.boundary == "circular":
            whole = x
        elif call.boundary == "reflect":
            whole = torch.cat([x, x.flip(axis)], axis)
        else:
            whole = torch.cat([x, torch.zeros_like(x)], axis)
        weights = window_weights(whole.shape[axis], stride, as_window(call.window))
        shape = [-1 if a == axis else 1 for a in range(axes)]
        filtered = torch.fft.ifft(torch.fft.fft(whole, dim=axis) * weights.view(shape), dim=axis).real
        x = filtered.narrow(axis, 0, n)
        if call.kind == "pool":
            x = x.index_select(axis, torch.arange(0, n, stride))
    bound = 50 * torch.finfo(call.y.dtype).eps * float(call.x[index].abs().max())
    return bool((x - y).abs().max() <= bound)


def _interpolates(call: Filtered) -> bool:
    """Whether upsampling left nothing above its input's Nyquist frequency, and gave the mean back."""
    grid = tuple(range(call.y.ndim - len(call.stride), call.y.ndim))
    bound = _ROUNDING.get(call.y.dtype, 1e-3)
    mean = (call.y.double().mean() - call.x.double().mean()).abs() / call.x.double().abs().max().clamp_min(1e-30)
    return share_above(call.y, grid, call.stride) <= bound and float(mean) <= bound**0.5


@dataclass(frozen=True)
class LayerTrace:
    """What one image makes a layer take and do.

    Attributes:
        input_size: (channels, height, width), or as many axes as the map has.
        output_size: Likewise, of what it gives; empty where that is no tensor.
        macs: Multiply-adds for one image; 0 for layers without a weight.
    """

    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    macs: int


@dataclass
class Observation:
    """What a forward pass showed.

    Attributes:
        layers: The trace of every layer that took a map, by name, at its first call.
        macs: Multiply-adds of all convolutions and linear layers for one image.
        operations: What made a grid coarser or finer, in the order of the pass.
    """

    layers: dict[str, LayerTrace] = field(default_factory=dict)
    macs: int = 0
    operations: list[Operation] = field(default_factory=list)

    def at(self, name: str) -> list[Operation]:
        """The operations that make a grid coarser in the module of that name itself."""
        return [op for op in self.operations if op.module == name and not op.upsamples]


def observe(model: nn.Module, example: Any) -> Observation:
    """Run a model once and note what its layers take, give and cost, and what it downsamples.

    Args:
        model: Any module; see `timm_asap.conversion.watch.watch` for what stays as it was.
        example: A tensor, a tuple of positional arguments or a dictionary of keyword arguments.
    """
    seen = Observation()
    images = max((len(t) for t in tensors_of(example) if t.ndim > 2), default=1) or 1

    def hook_of(name: str):
        def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            macs = _multiply_adds(layer, output) // images
            seen.macs += macs
            x = next(iter(tensors_of((args, kwargs))), None)
            if x is not None and x.ndim >= 3 and name not in seen.layers:
                y = next(iter(tensors_of(output)), None)
                size = tuple(y.shape[1:]) if y is not None else ()
                seen.layers[name] = LayerTrace(tuple(x.shape[1:]), size, macs)

        return hook

    with ExitStack() as hooks:
        for name, layer in model.named_modules():
            if not isinstance(layer, torch.jit.ScriptModule):
                handle = layer.register_forward_hook(hook_of(name), with_kwargs=True)
                hooks.callback(handle.remove)
        seen.operations = watch(model, example)
    return seen


def observe_on_meta(model: nn.Module, input_size: tuple[int, ...]) -> Observation:
    """`observe` with one image on a copy of the model that computes nothing.

    Args:
        model: Any image model; it is copied without its data, and stays untouched.
        input_size: (channels, height, width).
    """
    return observe(copy.deepcopy(model).to("meta"), torch.zeros(1, *input_size, device="meta"))


def trace_layers(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[dict[str, LayerTrace], int]:
    """The traces and the multiply-adds of `observe_on_meta`."""
    seen = observe_on_meta(model, input_size)
    return seen.layers, seen.macs


def _multiply_adds(layer: nn.Module, output: Any) -> int:
    if not isinstance(output, torch.Tensor):
        return 0
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, CondConv2d):  # its experts' weights are flat
        return output.numel() * math.prod(undeclared(layer).weight_shape[1:])
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and (weight.ndim == 4 or isinstance(layer, nn.modules.conv._ConvNd)):
        return output.numel() * math.prod(weight.shape[1:])
    return 0
