"""Fuses a converted network for inference, as timm does, and keeps its filters.

timm's own `reparameterize_model` builds new convolutions from the weights of old ones, and knows nothing of the
operator: the filters of every fused layer would be gone. Fusing stays exact with them, because branches that are
summed see the same low-passed input, and a batch normalization after a convolution does not see its input at all.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from timm_asap._timm import reparameterize_model
from timm_asap.conversion.geometry import geometry_of
from timm_asap.conversion.strided import AsapLayer, AsapSpec, attach, detach, is_converted, mixin_for

__all__ = ["reparameterize"]


def reparameterize(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Fuse the branches and normalizations of a model for inference; its outputs in eval mode stay the same.

    What `timm.utils.reparameterize_model` does for RepVGG, MobileOne, FastViT, RepViT, GhostNetV3 and others, for
    models with alias-free layers and without. timm's own function drops the filters of every layer that it fuses.

    Args:
        model: A converted model (a twin, or one that `timm_asap.convert` was given), or a plain one.
        inplace: Change the model itself instead of a copy.

    Returns:
        The fused model. Its state dict is no longer that of the architecture.

    Raises:
        ValueError: Branches that were converted differently would be summed into one layer; the model is unharmed
            unless `inplace`.

    Examples:
        >>> import timm, torch, timm_asap
        >>> model = timm.create_model("repvgg_a0_asap").eval()
        >>> x = torch.randn(1, 3, 64, 64)
        >>> fused = timm_asap.reparameterize(model)
        >>> torch.allclose(fused(x), model(x), atol=1e-4)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not inplace:
        model = copy.deepcopy(model)
    # By name: how what was converted downsamples, None for a strided layer that was left.
    specs: dict[str, AsapSpec | None] = {}
    kept: dict[nn.Module, tuple[AsapSpec, type[AsapLayer]]] = {}
    for name, layer in list(model.named_modules()):
        if is_converted(layer):
            mixin = layer.asap_mixin
            specs[name] = spec = detach(layer)
            kept[layer] = spec, mixin
        elif strides(layer):
            specs[name] = None

    before = set(model.modules())
    reparameterize_model(model, inplace=True)

    for name, layer in list(model.named_modules()):
        if layer in kept:
            attach(layer, *kept[layer])
            continue
        geometry = geometry_of(layer)
        if geometry is None or not geometry.strides or layer in before:
            continue
        if (spec := _spec_of_fused(name, specs)) is not None:
            attach(layer, replace(spec, geometry=geometry), mixin_for(layer, geometry, spec.layout))
    return model


def strides(layer: nn.Module) -> bool:
    """Whether a layer has a stride of more than one."""
    geometry = geometry_of(layer)
    return geometry is not None and geometry.strides


def _spec_of_fused(name: str, specs: dict[str, AsapSpec | None]) -> AsapSpec | None:
    """How the layers that a fused one replaces were converted: those below it, or else below its closest owner."""
    path = name.split(".")
    for depth in range(len(path), -1, -1):
        owner = ".".join(path[:depth])
        found = [spec for other, spec in specs.items() if not owner or f"{other}.".startswith(f"{owner}.")]
        if found:
            break
    else:
        return None
    ways = {spec and (spec.layout, spec.window, spec.boundary) for spec in found}
    if len(ways) > 1:
        raise ValueError(
            f"{name or 'the model'}: cannot fuse branches that downsample differently, {sorted(map(str, ways))}; "
            "convert all of them alike, or none"
        )
    return found[0]
