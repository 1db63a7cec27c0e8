"""One forward pass before conversion: what downsamples, on which maps, and at what cost."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import nn

from timm_asap.conversion.watch import Operation, tensors_of, watch

__all__ = ["LayerTrace", "Observation", "observe", "observe_on_meta", "trace_layers"]


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
        model: Any module; see :func:`timm_asap.conversion.watch.watch` for what stays as it was.
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
    """:func:`observe` with one image on a copy of the model that computes nothing.

    Args:
        model: Any image model; it is copied without its data, and stays untouched.
        input_size: (channels, height, width).
    """
    return observe(copy.deepcopy(model).to("meta"), torch.zeros(1, *input_size, device="meta"))


def trace_layers(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[dict[str, LayerTrace], int]:
    """The traces and the multiply-adds of :func:`observe_on_meta`."""
    seen = observe_on_meta(model, input_size)
    return seen.layers, seen.macs


def _multiply_adds(layer: nn.Module, output: Any) -> int:
    if not isinstance(output, torch.Tensor):
        return 0
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, CondConv2d):  # its experts' weights are flat
        return output.numel() * math.prod(layer.weight_shape[1:])
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and (weight.ndim == 4 or isinstance(layer, nn.modules.conv._ConvNd)):
        return output.numel() * math.prod(weight.shape[1:])
    return 0
