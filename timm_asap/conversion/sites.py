"""Where timm's networks downsample without a layer: poolings called as functions, slices and reshapes.

A walk over modules meets the block that does it. This table knows those blocks by class: how each is made alias-free,
or why it is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.conversion.geometry import Geometry
from timm_asap.conversion.strided import AsapLayer, LowPassed, MaxThenPool
from timm_asap.resample import resample2d

__all__ = ["FunctionalSite", "functional_site"]


class MaximumBranch(MaxThenPool):
    """Inception v3's reduction: the last of its branches is `F.max_pool2d` of the block's input."""

    becomes = "max at stride 1, then pool, for that branch"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the plain block, whose branches come from `_forward`."""
        return super(MaxThenPool, self).forward(x)

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        # The plain block's own maximum is thrown away: a hundredth of what its convolutions cost.
        return [*super()._forward(x)[:-1], self._downsample(x)]

    def _downsample(self, x: torch.Tensor) -> torch.Tensor:
        return MaxThenPool.forward(self, x)


class PooledBranch(MaximumBranch):
    """The same in the paper's layout: the pool in place of the maximum."""

    becomes = "pool, for that branch"

    def _downsample(self, x: torch.Tensor) -> torch.Tensor:
        return self._pool_to_plain_size(x)


class PooledTokens(AsapLayer):
    """LeViT's strided slice of queries: tokens of a map, taken every other row and column."""

    becomes = "pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool tokens of shape (B, H W, C)."""
        batch, _, channels = x.shape
        image = x.transpose(1, 2).reshape(batch, channels, *self.resolution)
        return self._pool(image).flatten(2).transpose(1, 2)


class LowPassedFusion(AsapLayer):
    """MobileNetV5's fusion of scales, which averages or interpolates to a resolution fixed at construction."""

    becomes = "low-pass, then the average or interpolation"
    pools = False

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Fuse maps at the size of the first, low-pass, and bring the result to the output's resolution."""
        size, target = inputs[0].shape[-2:], self.output_resolution
        enlarged = [
            F.interpolate(x, size=size, mode=self.interpolation_mode)
            if x.shape[-2] < size[0] or x.shape[-1] < size[1]
            else x
            for x in inputs
        ]
        x = self.ffn(torch.cat(enlarged, dim=1))
        # The stride is known here alone, and need not be whole: then the next whole one, to alias nothing.
        stride = tuple(-(-n // out) for n, out in zip(size, target, strict=True))
        x = resample2d(x, "lowpass", stride, self.asap.window, self.asap.boundary)
        if tuple(size) == tuple(target):
            return self.norm(x)
        if any(n % out for n, out in zip(size, target, strict=True)):
            return self.norm(F.interpolate(x, size=target, mode="bilinear"))
        return self.norm(F.avg_pool2d(x, stride, stride))


def _same(mixin: type[AsapLayer]) -> dict[str, type[AsapLayer]]:
    return {"preserve": mixin, "paper": mixin}


@dataclass(frozen=True)
class FunctionalSite:
    """One downsampling inside the `forward` of a block.

    Attributes:
        what: The call, as a report shows it.
        geometry: What it does to a map, given the block; None where that depends on the input.
        mixins: What the block becomes, by layout; a layout that is missing leaves it.
        reason: Why it is left, where it is.
        applies: Whether this block has the site at all.
        is_stem: The block turns the image into its first map.
    """

    what: str
    geometry: Callable[[nn.Module], Geometry | None] = lambda block: None
    mixins: dict[str, type[AsapLayer]] | None = None
    reason: str = ""
    applies: Callable[[nn.Module], bool] = lambda block: True
    is_stem: bool = False

    def mixin(self, layout: str) -> type[AsapLayer] | None:
        """What the block becomes in a layout, or None."""
        return (self.mixins or {}).get(layout)


def _fixed(kernel: int, stride: int) -> Callable[[nn.Module], Geometry]:
    return lambda block: Geometry((kernel, kernel), (stride, stride))


def _patches(size: Callable[[nn.Module], int]) -> Callable[[nn.Module], Geometry]:
    return lambda block: Geometry((size(block),) * 2, (size(block),) * 2)


_NO_STRIDE = "the block has no stride that the paper's layout could take away"
_GATE = "a gate inside attention, enlarged again afterwards"
_KEYS = "a reduction of keys and values inside attention"
_MERGE = "a transformer's patch merging, done by reshaping tokens: not covered"

_REDUCTION = FunctionalSite("F.max_pool2d", _fixed(3, 2), {"preserve": MaximumBranch, "paper": PooledBranch})
_PATCH_MERGING = FunctionalSite("a reshape", _fixed(2, 2), reason=_MERGE)

#: By module and class name.
_SITES = {
    "timm.layers.gather_excite.GatherExcite": FunctionalSite(
        "F.avg_pool2d", reason=_GATE, applies=lambda block: block.gather is None and block.extent > 0
    ),
    "timm.layers.non_local_attn.BatNonLocalAttn": FunctionalSite("F.adaptive_max_pool2d", reason=_GATE),
    "timm.layers.space_to_depth.SpaceToDepth": FunctionalSite(
        "a reshape",
        _patches(lambda block: block.bs),
        {"preserve": LowPassed},
        reason=_NO_STRIDE,
        is_stem=True,
    ),
    "timm.models.csatv2.LearnableDct2d": FunctionalSite(
        "a DCT of patches",
        _patches(lambda block: block.k),
        {"preserve": LowPassed},
        reason=_NO_STRIDE,
        is_stem=True,
    ),
    "timm.models.csatv2.SpatialAttention": FunctionalSite("nn.AdaptiveAvgPool2d", reason=_GATE),
    "timm.models.ghostnet.GhostModuleV2": FunctionalSite("F.avg_pool2d", _fixed(2, 2), reason=_GATE),
    "timm.models.ghostnet.GhostModuleV3": FunctionalSite(
        "F.avg_pool2d", _fixed(2, 2), reason=_GATE, applies=lambda block: block.mode == "shortcut"
    ),
    "timm.models.inception_v3.InceptionAux": FunctionalSite(
        "F.avg_pool2d", _fixed(5, 3), {"preserve": LowPassed}, reason=_NO_STRIDE
    ),
    "timm.models.inception_v3.InceptionB": _REDUCTION,
    "timm.models.inception_v3.InceptionD": _REDUCTION,
    "timm.models.levit.Downsample": FunctionalSite(
        "a strided slice",
        lambda block: Geometry((1, 1), (block.stride, block.stride)),
        _same(PooledTokens),
        applies=lambda block: block.pool is None,
    ),
    "timm.models.mobilenetv5.MobileNetV5MultiScaleFusionAdapter": FunctionalSite(
        "F.avg_pool2d or F.interpolate", mixins=_same(LowPassedFusion)
    ),
    "timm.models.nextvit.EfficientAttention": FunctionalSite(
        "nn.AvgPool1d", reason=_KEYS, applies=lambda block: block.sr is not None
    ),
    "timm.models.pvt_v2.Attention": FunctionalSite(
        "nn.AdaptiveAvgPool2d", reason=_KEYS, applies=lambda block: block.pool is not None
    ),
    "timm.models.swin_transformer.PatchMerging": _PATCH_MERGING,
    "timm.models.swin_transformer_v2.PatchMerging": _PATCH_MERGING,
    "timm.models.swin_transformer_v2_cr.PatchMerging": _PATCH_MERGING,
}


def functional_site(block: nn.Module) -> FunctionalSite | None:
    """The downsampling that a block does in its `forward`, without a layer for it; None for most.

    Args:
        block: Any module, converted or not.
    """
    cls = type(block).__bases__[1] if isinstance(block, AsapLayer) else type(block)
    site = _SITES.get(f"{cls.__module__}.{cls.__qualname__}")
    return site if site is not None and site.applies(block) else None
