"""Where a network downsamples: one answer per module, for layers with a stride and for blocks that do it inside.

Timm's networks, and torchvision's Swin, also downsample without a layer: by poolings called as functions, slices and
reshapes. A table below knows those blocks by class: how each is made alias-free, or why it is left.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from timm_asap.conversion.blocks import (
    AlternativeFunction,
    LowPassedFusion,
    LowPassedMerging,
    PooledMerging,
    PooledTokens,
    called_function,
)
from timm_asap.conversion.check import LayerTrace
from timm_asap.conversion.functional import REPLACEMENTS
from timm_asap.conversion.geometry import (
    CONVOLUTIONS,
    MAX_POOLS,
    Geometry,
    geometry_of,
    is_deformable,
    is_quantized_convolution,
)
from timm_asap.conversion.rewrite import AliasFreeCalls
from timm_asap.conversion.strided import AsapLayer, LowPassed, is_converted, mixin_for, plain_class, uses_own_forward
from timm_asap.conversion.watch import module_at

__all__ = [
    "PATCHIFY_STRIDE",
    "Downsampling",
    "FunctionalDownsampling",
    "functional_site",
    "image_layers",
    "opaque_reason",
    "reducing_attention",
    "site_of",
]


def _same(mixin: type[AsapLayer]) -> dict[str, type[AsapLayer]]:
    return {"preserve": mixin, "paper": mixin}


@dataclass(frozen=True)
class FunctionalDownsampling:
    """One downsampling inside the `forward` of a block.

    Attributes:
        what: The call, as a report shows it.
        geometry: What it does to a map, given the block; None where that depends on the input.
        mixins: What the block becomes, by layout; a layout that is missing leaves it.
        reason: Why it is left, where it is.
        applies: Whether this block has the layer at all.
        is_stem: The block turns the image into its first map.
        pools: Whether the pool runs in it, or else the low-pass; None for what its mixin says.
        channels_first: Its map is (B, C, *grid); else (B, *grid, C).
    """

    what: str
    geometry: Callable[[Any], Geometry | None] = lambda block: None
    mixins: dict[str, type[AsapLayer]] | None = None
    reason: str = ""
    applies: Callable[[Any], bool] = lambda block: True
    is_stem: bool = False
    pools: bool | None = None
    channels_first: bool = True


def _fixed(kernel: int, stride: int) -> Callable[[nn.Module], Geometry]:
    return lambda block: Geometry((kernel, kernel), (stride, stride))


def _patches(size: Callable[[Any], int]) -> Callable[[nn.Module], Geometry]:
    return lambda block: Geometry((size(block),) * 2, (size(block),) * 2)


_OWN_POOL = "its class has a `forward` of its own, which may compute anything"
_NO_STRIDE = "the block has no stride that the paper's layout could take away"
_GATE = "a gate inside attention, enlarged again afterwards"
_UNITS = "pools tokens in the order of its mask units, not on the grid of the image"
_KEYS = "a reduction of keys and values inside attention"

_REDUCTION = FunctionalDownsampling("F.max_pool2d", _fixed(3, 2), _same(AliasFreeCalls), pools=True)
_PATCH_MERGING = FunctionalDownsampling(
    "merging of tokens", _fixed(2, 2), {"preserve": LowPassedMerging, "paper": PooledMerging}, channels_first=False
)

#: By module and class name.
_SITES = {
    "timm.layers.gather_excite.GatherExcite": FunctionalDownsampling(
        "F.avg_pool2d", reason=_GATE, applies=lambda block: block.gather is None and block.extent > 0
    ),
    "timm.layers.non_local_attn.BatNonLocalAttn": FunctionalDownsampling("F.adaptive_max_pool2d", reason=_GATE),
    "timm.layers.space_to_depth.SpaceToDepth": FunctionalDownsampling(
        "a reshape",
        _patches(lambda block: block.bs),
        {"preserve": LowPassed},
        reason=_NO_STRIDE,
        is_stem=True,
    ),
    "timm.models.coat.ParallelBlock": FunctionalDownsampling("F.interpolate", mixins=_same(AliasFreeCalls)),
    "timm.models.crossvit.CrossVit": FunctionalDownsampling(
        "F.interpolate", reason="resizes the image for its second branch, by less than 2"
    ),
    "timm.models.csatv2.LearnableDct2d": FunctionalDownsampling(
        "a DCT of patches",
        _patches(lambda block: block.k),
        {"preserve": LowPassed},
        reason=_NO_STRIDE,
        is_stem=True,
    ),
    "timm.models.csatv2.SpatialAttention": FunctionalDownsampling("nn.AdaptiveAvgPool2d", reason=_GATE),
    "timm.models.ghostnet.GhostModuleV2": FunctionalDownsampling("F.avg_pool2d", _fixed(2, 2), reason=_GATE),
    "timm.models.ghostnet.GhostModuleV3": FunctionalDownsampling(
        "F.avg_pool2d", _fixed(2, 2), reason=_GATE, applies=lambda block: block.mode == "shortcut"
    ),
    "timm.models.hiera.HieraBlock": FunctionalDownsampling(
        "a maximum over tokens",
        reason=_UNITS,
        applies=lambda block: block.attn.q_stride > 1,
    ),
    "transformers.models.hiera.modeling_hiera.HieraLayer": FunctionalDownsampling(
        "a maximum over tokens", reason=_UNITS, applies=lambda block: block.query_stride > 1
    ),
    "timm.models.inception_v3.InceptionAux": FunctionalDownsampling(
        "F.avg_pool2d", _fixed(5, 3), {"preserve": LowPassed}, reason=_NO_STRIDE
    ),
    "timm.models.inception_v3.InceptionB": _REDUCTION,
    "timm.models.inception_v3.InceptionD": _REDUCTION,
    "timm.models.levit.Downsample": FunctionalDownsampling(
        "a strided slice",
        lambda block: Geometry((1, 1), (block.stride, block.stride)),
        _same(PooledTokens),
        applies=lambda block: block.pool is None,
    ),
    "timm.models.mobilenetv5.MobileNetV5MultiScaleFusionAdapter": FunctionalDownsampling(
        "F.avg_pool2d or F.interpolate", mixins=_same(LowPassedFusion)
    ),
    "timm.models.nextvit.EfficientAttention": FunctionalDownsampling(
        "nn.AvgPool1d", reason=_KEYS, applies=lambda block: block.sr is not None
    ),
    "timm.models.pvt_v2.Attention": FunctionalDownsampling(
        "nn.AdaptiveAvgPool2d", reason=_KEYS, applies=lambda block: block.pool is not None
    ),
    "torchvision.models.swin_transformer.PatchMerging": _PATCH_MERGING,
    "torchvision.models.swin_transformer.PatchMergingV2": _PATCH_MERGING,
    "timm.models.swin_transformer.PatchMerging": _PATCH_MERGING,
    "timm.models.swin_transformer_v2.PatchMerging": _PATCH_MERGING,
    "timm.models.swin_transformer_v2_cr.PatchMerging": _PATCH_MERGING,
}


def functional_site(block: nn.Module) -> FunctionalDownsampling | None:
    """The downsampling that a block of timm does in its `forward`, without a layer for it; None for most.

    Args:
        block: Any module, converted or not.
    """
    cls = plain_class(block)
    site = _SITES.get(f"{cls.__module__}.{cls.__qualname__}")
    return site if site is not None and site.applies(block) else None


@dataclass(frozen=True)
class Downsampling:
    """How one module downsamples, and what conversion does about it.

    Attributes:
        what: Class (and call, for a block), kernel and stride.
        plain_class: The module's class before conversion.
        geometry: Kernel and stride; None where the stride depends on the input.
        mixins: What it becomes, by layout; a layout that is missing leaves it.
        reason: Why it is left in such a layout.
        is_block: It is a block of timm that downsamples in its `forward`, no layer.
        is_stem: It turns the image into its first map, whatever comes before it.
        pools: Whether it will run the pool, or else the low-pass; None for what its mixin says.
        channels_first: Its map is (B, C, *grid); else (B, *grid, C).
    """

    what: str
    plain_class: type[nn.Module]
    geometry: Geometry | None
    mixins: dict[str, type[AsapLayer]]
    reason: str = ""
    is_block: bool = False
    is_stem: bool = False
    pools: bool | None = None
    channels_first: bool = True

    def mixin(self, layout: str) -> type[AsapLayer] | None:
        """What the module becomes in a layout, or None."""
        return self.mixins.get(layout)


def site_of(layer: nn.Module, shrinks: bool = False) -> Downsampling | None:
    """How a module downsamples by itself, converted or not; None for most modules.

    Args:
        layer: Any module. Its submodules are layers of their own.
        shrinks: It was seen to shrink a map, which of `nn.Upsample(size=...)` nothing else shows.
    """
    cls = plain_class(layer)
    if block := functional_site(layer):
        geometry = block.geometry(layer)
        what = f"{block.what} in {cls.__name__}" + (f" {geometry}" if geometry else "")
        return Downsampling(
            what,
            cls,
            geometry,
            block.mixins or {},
            block.reason,
            is_block=True,
            is_stem=block.is_stem,
            pools=block.pools,
            channels_first=block.channels_first,
        )
    is_call = called_function(cls) is not None
    geometry = layer.asap.geometry if is_converted(layer) and not is_call else geometry_of(layer)
    if geometry is not None and not geometry.strides:
        return None
    what = f"{cls.__name__} {geometry}" if geometry else cls.__name__
    if is_call:
        return _site_of_call(layer, cls, geometry, what, shrinks)
    if geometry is None or (cls.__module__.startswith("torch.ao.") and not is_quantized_convolution(layer)):
        return None
    return Downsampling(what, cls, geometry, *_mixins_of_layer(layer, geometry))


def _site_of_call(
    layer: nn.Module, cls: type, geometry: Geometry | None, what: str, shrinks: bool
) -> Downsampling | None:
    """Of a layer that is one call of a function, if it can shrink its map."""
    if isinstance(layer, nn.Upsample) and not (shrinks or _shrinks(layer)):
        return None
    output = getattr(layer, "output_size", None)
    if geometry is None and output is not None and set(output if isinstance(output, tuple) else (output,)) == {1}:
        return None
    if not is_converted(layer) and uses_own_forward(layer):
        return Downsampling(what, cls, geometry, {}, _OWN_POOL)
    return Downsampling(what, cls, geometry, _same(AlternativeFunction))


def _shrinks(layer: nn.Upsample) -> bool:
    if is_converted(layer) and layer.asap_mixin is AlternativeFunction:
        return True
    factors = layer.scale_factor if isinstance(layer.scale_factor, tuple) else (layer.scale_factor,)
    return any(factor is not None and factor < 1 for factor in factors)


def _mixins_of_layer(layer: nn.Module, geometry: Geometry) -> tuple[dict[str, type[AsapLayer]], str]:
    """What a layer with a stride becomes by layout, and why it is left in the others."""
    if isinstance(layer, tuple(MAX_POOLS.values())) and uses_own_forward(layer) and not geometry.same:
        return {}, _OWN_POOL
    mixins = {"preserve": mixin_for(layer, geometry, "preserve")}
    if isinstance(layer, (nn.PixelUnshuffle, nn.Unfold)):
        return mixins, "the layer has no stride that the paper's layout could take away"
    if is_deformable(layer):
        return mixins, "its offsets belong to the grid of its stride, which the paper's layout would change"
    if not geometry.fits_pool():
        return mixins, "padded wider than 'same': the pool has fewer samples than its output"
    return {**mixins, "paper": mixin_for(layer, geometry, "paper")}, ""


# Attention: what shortens keys, values or a gate is left; where the queries stride, so does the output.

_ATTENTION = re.compile(r"(Attn|Attention)(\dd)?$")

#: Layers of timm's attention classes whose stride is that of the block's output, by the name of the attribute.
MAIN_PATH = {
    "BottleneckAttn": {"pool"},  # averages the attention's output
    "HaloAttn": {"pool", "q"},  # likewise, or queries at the output's grid
    "MultiScaleAttention": {"pool_q", "q_pool"},  # the shortcut beside it is pooled alike
    "SplitAttn": {"conv"},  # the convolution that is split
}

# What authors call the layers that shorten keys and values, in attention that is not timm's.
_REDUCTIONS = re.compile(r"^(sr|kv?|v|key|value|kv_?pool|pool_[kv]|[kv]_pool|key_.*|value_.*|.*reduc.*|sr_.*)\d*$")


def _keeps_grid(trace: LayerTrace) -> bool:
    """Whether a module gives back as many positions as it took: all axes of a map but its channels, or of tokens."""
    before, after = trace.input_size, trace.output_size
    return before[1:] == after[1:] if len(before) > 2 else before[:1] == after[:1]


def reducing_attention(model: nn.Module, name: str, layers: Mapping[str, LayerTrace] | None = None) -> str:
    """The attention inside which a module reduces keys, values or a gate.

    For timm's classes the main path is known by name. Any other class called attention reduces inside where the
    attribute is called as reductions are, or, with traces, where it gives its map back at the size that it took it.

    Args:
        model: The network.
        name: The module's name in it.
        layers: Traces of a forward pass, by name.

    Returns:
        Class name of that attention; empty where the module is on the main path.
    """
    path = name.split(".") if name else []
    for depth in range(len(path), -1, -1):
        owner_name = ".".join(path[:depth])
        owner = module_at(model, owner_name)
        cls = plain_class(owner)
        if not _ATTENTION.search(cls.__name__) or (depth == len(path) and site_of(owner) is not None):
            continue
        attribute = path[depth] if depth < len(path) else ""
        if cls.__module__.startswith("timm."):
            inside = bool(attribute) and attribute not in MAIN_PATH.get(cls.__name__, ())
        else:
            inside = bool(_REDUCTIONS.match(attribute))
            if not inside and layers is not None and owner_name in layers:
                inside = _keeps_grid(layers[owner_name])
        return cls.__name__ if inside else ""
    return ""


# Stems.

#: A stem of this stride or more turns patches into tokens: strictly alias-free, it would see a thumbnail of the image.
PATCHIFY_STRIDE = 4


def image_layers(model: nn.Module) -> tuple[set[nn.Module], set[nn.Module]]:
    """The layers that read an image first, as far as modules show it.

    timm's networks name theirs, and there may be several in a model. Elsewhere it is the first convolution, and every
    other one of one or three channels, or of as many as the first where those are few.

    Returns:
        Those layers; and all modules of networks that name theirs.
    """
    stems: set[nn.Module] = set()
    named: set[nn.Module] = set()
    for network in model.modules():
        traits = getattr(network, "_traits", None) or getattr(network, "pretrained_cfg", None)
        names = traits.get("first_conv") if isinstance(traits, Mapping) else None
        if not names or network in named:
            continue
        # Feature wrappers hold the network as 'model', or flatten its containers: 'stem.0' becomes 'stem_0'.
        modules = {n.removeprefix("model.").replace(".", "_"): layer for n, layer in network.named_modules()}
        names = (names,) if isinstance(names, str) else tuple(names)
        found = [modules[name.replace(".", "_")] for name in names if name.replace(".", "_") in modules]
        if found:
            stems.update(found)
            named.update(network.modules())
    others = [m for m in model.modules() if m not in named]
    readers = [m for m in others if isinstance(m, (*CONVOLUTIONS.values(), nn.PixelUnshuffle, nn.Unfold))]
    convolutions = [m for m in readers if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if readers:
        stems.add(readers[0])
    if convolutions:
        first = convolutions[0].in_channels
        alike = {1, 3, first} if first <= 4 else {1, 3}
        stems.add(convolutions[0])
        stems.update(conv for conv in convolutions if conv.in_channels in alike and conv.groups == 1)
    stems.update(m for m in model.modules() if (site := functional_site(m)) and site.is_stem)
    # What cuts an image into large patches does so wherever it stands.
    blocks = (m for m in model.modules() if isinstance(m, (nn.PixelUnshuffle, nn.Unfold)))
    stems.update(m for m in blocks if (cut := geometry_of(m)) and max(cut.stride) >= PATCHIFY_STRIDE)
    return stems, named


# What cannot be looked into.


def opaque_reason(module: nn.Module) -> str:
    """Why a module's downsampling can be neither read nor converted; empty for most modules."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript; convert before compiling"
    if isinstance(module, torch.fx.GraphModule):
        targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
        if any(isinstance(target, torch._ops.OpOverload) for target in targets):
            return "an exported graph; convert before exporting"
        if any(target in REPLACEMENTS or target is operator.getitem for target in targets):
            return "calls of a traced graph; convert before tracing"
    if plain_class(module).__module__.startswith(("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")):
        geometry = geometry_of(module)
        if geometry is not None and geometry.strides:
            return (
                "prepared for quantization, which would lose the filter; convert the float network, and export it first"
            )
    return ""
