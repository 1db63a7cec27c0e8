"""Where a network downsamples, and the map that is sampled there while the network runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import nn

from timm_asap.conversion.convert import convert
from timm_asap.conversion.geometry import geometry_of
from timm_asap.conversion.sites import functional_site
from timm_asap.conversion.strided import AsapLayer, AsapSpec, LowPassed, PooledPointwise, is_converted, mixin_for, wear
from timm_asap.evaluation.aliasing.fixed_filter import filters_before_sampling, fixed_filter

__all__ = ["SamplingSite", "SiteStatus", "sampling_sites", "watch_samples"]

#: Called with what is sampled, (B, C, H, W), before every s-th sample is taken.
Listener = Callable[[torch.Tensor], None]


class SiteStatus(str, Enum):
    """What conversion has to do with a site."""

    CONVERTED = "converted"
    """It wears the operator."""
    PLAIN = "plain"
    """It does not, and :func:`timm_asap.convert` would give it one."""
    LEFT = "left"
    """:func:`timm_asap.convert` leaves it as it is."""


@dataclass(frozen=True)
class SamplingSite:
    """One downsampling of a network.

    Attributes:
        name: Its name in `model.named_modules()`.
        layer: The module.
        description: Class, kernel and stride.
        stride: Of the height and of the width.
        status: What conversion has to do with it.
        reason: Why it is left; empty elsewhere.
        mixin: What it is, or would be, converted to in the layout `"preserve"`.
    """

    name: str
    layer: nn.Module
    description: str
    stride: tuple[int, int]
    status: SiteStatus
    reason: str
    mixin: type[AsapLayer]


def sampling_sites(model: nn.Module) -> list[SamplingSite]:
    """The downsampling of a network, converted or not.

    Left out is what has no map to measure: attention that reduces tokens, patch merging by reshaping, and MobileNetV5's
    fusion, whose stride depends on its input.

    Args:
        model: Any module; it is not changed.
    """
    sites = []
    for found in convert(model, dry_run=True).sites:
        layer = model.get_submodule(found.name)
        converted, functional = is_converted(layer), functional_site(layer)
        if functional is not None:
            geometry, mixin = functional.geometry(layer), functional.mixin("preserve")
        else:
            geometry = layer.asap.geometry if converted else geometry_of(layer)
            mixin = mixin_for(layer, geometry, "preserve")
        left = not converted and not found.converted
        if geometry is None or mixin is None or (left and functional is not None):
            continue
        status = SiteStatus.CONVERTED if converted else SiteStatus.LEFT if left else SiteStatus.PLAIN
        reason = found.reason if left else ""
        sites.append(SamplingSite(found.name, layer, found.layer, geometry.stride, status, reason, mixin))
    return sites


@contextmanager
def watch_samples(sites: list[SamplingSite], listener: Callable[[SamplingSite, torch.Tensor], None]) -> Iterator[None]:
    """Hear of what every site samples, while the network runs in this context.

    - A converted layer samples what its low-pass gives: after the maximum of a max-pool, before the layer's padding.
    - A plain convolution is heard at its input, a plain max-pool after its maximum at stride 1: where the low-pass
      would sit. An average pool and a blur pool are heard after their own filter, for it is a low-pass too.

    Args:
        sites: Of :func:`sampling_sites`.
        listener: Called with the site and its map (B, C, H, W), at each run of the layer.
    """
    with ExitStack() as stack:
        for site in sites:

            def hear(x: torch.Tensor, site: SamplingSite = site) -> None:
                if x.ndim == 4:
                    listener(site, x)

            if site.status is SiteStatus.CONVERTED:
                stack.enter_context(_listen_after_lowpass(site.layer, hear))
            else:
                handle = site.layer.register_forward_pre_hook(_plain_hook(site, hear))
                stack.callback(handle.remove)
        yield


@contextmanager
def _listen_after_lowpass(layer: AsapLayer, hear: Listener) -> Iterator[None]:
    """The layer's operators are shadowed by ones that tell what they saw."""

    def lowpass(x: torch.Tensor) -> torch.Tensor:
        x = AsapLayer._lowpass(layer, x)
        hear(x)
        return x

    def pool(x: torch.Tensor) -> torch.Tensor:
        # The pool is the low-pass at every s-th sample; that signal never exists in the network.
        hear(AsapLayer._lowpass(layer, x))
        return AsapLayer._pool(layer, x)

    layer._lowpass, layer._pool = lowpass, pool
    try:
        yield
    finally:
        del layer._lowpass, layer._pool


def _plain_hook(site: SamplingSite, hear: Listener) -> Callable[[nn.Module, tuple], None]:
    """A forward pre-hook that hears what a layer without the operator samples."""
    if filters_before_sampling(site.layer):
        return lambda layer, args: hear(fixed_filter(layer, args[0]))
    if site.mixin in (LowPassed, PooledPointwise):
        return lambda layer, args: hear(args[0])

    def hook(layer: nn.Module, args: tuple) -> None:
        # A shallow copy wears the operator: what reaches its pool is what the plain layer's stride samples.
        functional = functional_site(layer)
        geometry = functional.geometry(layer) if functional else geometry_of(layer)
        twin = copy.copy(layer)
        wear(twin, AsapSpec(geometry, "asap", "circular", "preserve"), site.mixin)
        twin._pool = lambda x: hear(x) or AsapLayer._pool(twin, x)
        twin.forward(*args)

    return hook
