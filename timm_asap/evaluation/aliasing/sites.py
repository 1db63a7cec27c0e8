"""Where a network downsamples, and the map that is sampled there while the network runs."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_asap._types import present
from timm_asap.conversion import Operation, convert
from timm_asap.conversion.blocks import AlternativeFunction
from timm_asap.conversion.check import samples
from timm_asap.conversion.filtering import Filtered
from timm_asap.conversion.rewrite import AliasFreeCalls, calls_in
from timm_asap.conversion.sites import site_of
from timm_asap.conversion.strided import AsapSpec, LowPassed, PooledPointwise, attach, is_converted, plain_class
from timm_asap.conversion.watch import Watcher, module_at, undisturbed
from timm_asap.evaluation.aliasing.energy import filters_before_sampling, fixed_filter, sampled_map
from timm_asap.ops.resample import resample

__all__ = ["LayerStatus", "SampledLayer", "sampled_layers", "watch_samples"]

#: Called with a layer and what is sampled there, (B, C, *grid), before every s-th sample is taken.
Listener = Callable[["SampledLayer", torch.Tensor], None]


class LayerStatus(str, Enum):
    """What conversion has to do with a layer."""

    CONVERTED = "converted"
    """The operator is attached to it."""
    PLAIN = "plain"
    """It is not, and `timm_asap.convert` would attach it."""
    LEFT = "left"
    """`timm_asap.convert` leaves it as it is, for a reason."""
    UNHANDLED = "not handled"
    """`timm_asap.convert` does not know how to make it alias-free."""


@dataclass(frozen=True)
class SampledLayer:
    """One downsampling of a network.

    Attributes:
        name: Name of the module in `model.named_modules()`; for a call in a module's code, file and line after an `@`.
        description: Class, kernel and stride, or what the call does.
        stride: Per axis of the grid.
        status: What conversion has to do with it.
        reason: Why it is left or not handled; empty elsewhere.
    """

    name: str
    description: str
    stride: tuple[int, ...]
    status: LayerStatus
    reason: str = ""


def sampled_layers(model: nn.Module) -> list[SampledLayer]:
    """The layers of a network that downsample, converted or not, as reading its modules shows them.

    Left out is what has a stride only when it runs; `watch_samples` finds that too.

    Args:
        model: Any module; it is not changed.
    """
    sites = []
    for row in convert(model, dry_run=True).sites:
        module = module_at(model, row.name)
        site = site_of(module)
        converted = is_converted(module)
        if site is None or site.geometry is None or not site.geometry.strides:
            continue
        if site.is_block and not converted and not row.converted:
            continue
        status = LayerStatus.CONVERTED if converted else LayerStatus.PLAIN if row.converted else LayerStatus.LEFT
        reason = row.reason if status is LayerStatus.LEFT else ""
        sites.append(SampledLayer(row.name, row.layer, site.geometry.stride, status, reason))
    return sites


@contextmanager
def watch_samples(model: nn.Module, images: Any, listener: Listener) -> Iterator[None]:
    """Call a listener with what every downsampling of a network samples, while it runs in this context.

    - Where the operator is attached, what its low-pass gives is sampled: after the maximum of a max-pool, before the
      layer's padding.
    - A plain convolution samples its input, a plain max-pool its maximum at stride 1: where the low-pass would sit. An
      average pool and a blur pool sample what their own filter gives, for it is a low-pass too.
    - Whatever else makes a grid coarser, in whatever code, samples its input.

    Args:
        model: The network.
        images: What it will be called with.
        listener: Called with the layer and its map (B, C, *grid), at each run.
    """
    with ExitStack() as stack:
        watch = _Samples(model, listener)
        for site in sampled_layers(model):
            watch.known[site.name] = site
            layer = module_at(model, site.name)
            if site.status is not LayerStatus.CONVERTED:
                handle = layer.register_forward_pre_hook(watch.hook_of(site, layer))
                stack.callback(handle.remove)
        stack.enter_context(undisturbed(model))
        stack.enter_context(Watcher(model, images, watch.on_operation, watch.on_filter))
        yield


class _Samples:
    """What the hooks and the watcher of one pass say, told to one listener as layers."""

    def __init__(self, model: nn.Module, listener: Listener) -> None:
        self._model, self._listener = model, listener
        #: Layers that reading the modules found, by name.
        self.known: dict[str, SampledLayer] = {}
        self._last: defaultdict[str, list[Filtered]] = defaultdict(list)
        self._calls: defaultdict[tuple[str, str, int], list[int]] = defaultdict(list)

    def _key(self, name: str, lines: tuple) -> str:
        """Module, file and line; numbered where one line holds several calls."""
        if not lines:
            return name
        file, line, instruction = lines[0]
        calls = self._calls[name, file, line]
        if instruction not in calls:
            calls.append(instruction)
        number = calls.index(instruction) + 1
        return f"{name}@{Path(file).name}:{line}" + (f"#{number}" if number > 1 else "")

    def hook_of(self, site: SampledLayer, layer: nn.Module) -> Callable[[nn.Module, tuple], None]:
        """A forward pre-hook for a layer without the operator."""
        mixin = present(site_of(layer), "layer in this layer").mixin("preserve")

        def hook(layer: nn.Module, args: tuple) -> None:
            if not args:  # called by keyword: the watcher sees it
                return
            if filters_before_sampling(layer):
                self._listener(site, fixed_filter(layer, args[0]))
            elif mixin in (LowPassed, PooledPointwise, AlternativeFunction, None):
                self._listener(site, args[0])
            else:
                # A shallow copy gets the operator: what reaches its pool is what the plain layer's stride samples.
                twin = copy.copy(layer)
                geometry = present(present(site_of(layer), "layer in this layer").geometry, "geometry of this layer")
                attach(twin, AsapSpec(geometry, "asap", "circular", "preserve"), mixin)
                seen = []
                with Watcher(twin, (), None, lambda call, name, lines: seen.append(call)):
                    twin.forward(*args)
                for call in seen:
                    self._listener(site, call.x)

        return hook

    def on_filter(self, call: Filtered, name: str, lines: tuple) -> None:
        """The operator was used by a module."""
        if call.kind == "lowpass":
            self._last[name].append(call)
        module = module_at(self._model, name)
        if not is_converted(module):
            return
        y = call.y if call.kind == "lowpass" else resample(call.x, "lowpass", call.stride, call.window, call.boundary)
        site = self.known.get(name)
        if site is None:
            kind = plain_class(module).__name__
            what = f"{call.kind} / {'x'.join(map(str, call.stride))} in {kind}"
            own_calls = issubclass(module.asap_mixin, AliasFreeCalls)
            site = SampledLayer(self._key(name, lines if own_calls else ()), what, call.stride, LayerStatus.CONVERTED)
        self._listener(site, y)

    def on_operation(self, operation: Operation) -> None:
        """Something made a grid coarser."""
        name = operation.module
        if operation.upsamples or any(samples(operation, call) for call in self._last.pop(name, ())):
            return
        module = module_at(self._model, name)
        site = self.known.get(name)
        if site is not None and site.status is not LayerStatus.CONVERTED:
            return  # its hook has said so
        status, reason = LayerStatus.UNHANDLED, "nothing converts it; see timm_asap.convert(model, example=...)"
        if is_converted(module):
            reason = "its module is converted, and samples what was not low-passed all the same"
        elif operation.filters_itself:
            status, reason = LayerStatus.LEFT, "PyTorch's own antialiasing, a low-pass already"
        elif site_of(module) is not None or any(call.covers(operation.lines) for call in calls_in(module)):
            status, reason = LayerStatus.PLAIN, ""
        what = f"{operation.kind} / {operation.factor} in {plain_class(module).__name__}"
        key = name if site_of(module) is not None else self._key(name, operation.lines)
        self._listener(SampledLayer(key, what, operation.stride, status, reason), sampled_map(operation))
