"""The sizes of the maps that reach each layer, by one forward pass that computes nothing."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import nn

__all__ = ["LayerTrace", "trace_layers"]


@dataclass(frozen=True)
class LayerTrace:
    """What one image makes a layer take and do.

    Attributes:
        input_size: (channels, height, width).
        macs: Multiply-adds for one image; 0 for layers without a weight.
    """

    input_size: tuple[int, int, int]
    macs: int


def trace_layers(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[dict[str, LayerTrace], int]:
    """Run one image of `input_size` through a copy of the model on the meta device.

    Args:
        model: Any image model; it is copied without its data, and stays untouched.
        input_size: (channels, height, width).

    Returns:
        The trace of every layer that took one (B, C, H, W) map, by name, and the multiply-adds of all convolutions
        and linear layers for one image.
    """
    twin = copy.deepcopy(model).to("meta").eval()
    traces: dict[str, LayerTrace] = {}
    total = 0

    def watch(name: str):
        def hook(layer: nn.Module, args: tuple, output: torch.Tensor) -> None:
            nonlocal total
            macs = _multiply_adds(layer, output)
            total += macs
            if args and isinstance(args[0], torch.Tensor) and args[0].ndim == 4 and name not in traces:
                traces[name] = LayerTrace(tuple(args[0].shape[1:]), macs)

        return hook

    for name, layer in twin.named_modules():
        layer.register_forward_hook(watch(name))
    with torch.no_grad():
        twin(torch.zeros(1, *input_size, device="meta"))
    return traces, total


def _multiply_adds(layer: nn.Module, output: torch.Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, CondConv2d):  # its experts' weights are flat
        return output.numel() * math.prod(layer.weight_shape[1:])
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.ndim == 4 and isinstance(output, torch.Tensor):
        return output.numel() * math.prod(weight.shape[1:])
    return 0
