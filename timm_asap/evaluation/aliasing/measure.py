"""Aliasing of each downsampling layer of a network, over images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from timm_asap.errors import UserError
from timm_asap.evaluation.aliasing.energy import MapAliasing, map_aliasing
from timm_asap.evaluation.aliasing.sites import SampledLayer, watch_samples

__all__ = ["LayerAliasing", "measure_aliasing", "measure_batch", "merge_aliasing"]


@dataclass(frozen=True)
class LayerAliasing:
    """What one downsampling layer samples, a mean over images.

    Attributes:
        site: Name in `model.named_modules()`; for a call in a module's code, with file and line after an `@`.
        layer: Class, kernel and stride.
        status: `"converted"`, `"plain"` (conversion would reach it), `"left"` (conversion leaves it for a reason) or
            `"not handled"` (conversion does not know how).
        reason: Why it is left or not handled; empty elsewhere.
        stride: Per axis of the grid: height and width.
        map_size: (channels, height, width) of what is sampled.
        images: How many images were measured.
        above_nyquist: Fraction of the energy above the new Nyquist frequency, 0 to 1.
        folded: Fraction of the sampled energy that comes from those frequencies, 0 to 1.
        constant: Fraction of the energy that is the maps' means, 0 to 1.
        frequency: Bins of the spectrum, in new Nyquist frequencies.
        power: Mean power of a frequency in each bin; white noise has 1 throughout.
    """

    site: str
    layer: str
    status: str
    reason: str
    stride: tuple[int, ...]
    map_size: tuple[int, ...]
    images: int
    above_nyquist: float
    folded: float
    constant: float
    frequency: tuple[float, ...]
    power: tuple[float, ...]

    def record(self) -> dict[str, Any]:
        """The result that evaluation.json holds."""
        return {
            "measure": "aliasing",
            "id": f"aliasing/{self.site}",
            "site": self.site,
            "layer": self.layer,
            "status": self.status,
            "reason": self.reason,
            "stride": list(self.stride),
            "map_size": list(self.map_size),
            "images": self.images,
            "above_nyquist": self.above_nyquist,
            "folded": self.folded,
            "constant": self.constant,
            "spectrum": {"frequency": list(self.frequency), "power": list(self.power)},
        }


def measure_aliasing(model: nn.Module, batches: Iterable[Any]) -> list[LayerAliasing]:
    """Measure every downsampling layer of a network, plain or converted.

    The pass is watched for whatever makes a grid coarser: layers, functions called in a `forward`, strided slices,
    compiled code. A plain network is measured where conversion would put the low-pass (average and blur pools after
    the filter that they have), a twin after its low-pass: the two lists compare layer by layer. With the circular
    boundary a twin reads rounding errors at its converted layers, 1e-13 in float32. Other boundaries continue the map
    beyond its edges in their own way, of which the periodic spectrum that is measured here sees the seam.

    Args:
        model: A network as timm builds it, in eval mode; float32 at least, since half precision rounds by itself.
        batches: Batches (B, C, H, W) as the network takes them, normalized and on its device; or (images, labels).

    Returns:
        The layers that the images reach, in the order of the model's modules; layers that run twice, at their first
        run.

    Raises:
        UserError: No images, or images of several sizes.
        ValueError: The model is in training mode.

    Examples:
        >>> import timm, timm_asap
        >>> model = timm.create_model("resnet20_lowres_asap").eval()
        >>> layers = measure_aliasing(model, [torch.randn(4, 3, 32, 32)])
        >>> max(layer.above_nyquist for layer in layers) < 1e-6
        True
    """
    parts = []
    for batch in batches:
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        if len(images):
            parts.append(measure_batch(model, images))
    if not parts:
        raise UserError("aliasing: expected at least one image, got none")
    return merge_aliasing(parts)


@torch.no_grad()
def measure_batch(model: nn.Module, images: torch.Tensor) -> list[LayerAliasing]:
    """`measure_aliasing` for one batch, for whoever spreads batches over processes and merges them."""
    if model.training:
        raise ValueError("model: expected eval mode, got training mode: call model.eval() first")
    seen: dict[SampledLayer, tuple[MapAliasing, tuple[int, ...]]] = {}
    names: set[str] = set()

    def listen(site: SampledLayer, x: torch.Tensor) -> None:
        # Tokens in an order of their own have no map; a layer that runs twice counts at its first run.
        if site.name not in names and x.ndim >= len(site.stride) + 2 and x.is_floating_point():
            names.add(site.name)
            seen[site] = map_aliasing(x, site.stride), tuple(x.shape[1:])

    with watch_samples(model, images, listen):
        model(images)
    order = {name: number for number, (name, _) in enumerate(model.named_modules())}
    sites = sorted(seen, key=lambda site: order[site.name.partition("@")[0]])
    return [_mean(site, *seen[site]) for site in sites]


def _mean(site: SampledLayer, aliasing: MapAliasing, map_size: tuple[int, ...]) -> LayerAliasing:
    return LayerAliasing(
        site=site.name,
        layer=site.description,
        status=site.status.value,
        reason=site.reason,
        stride=site.stride,
        map_size=map_size,
        images=len(aliasing.folded),
        above_nyquist=aliasing.above_nyquist.mean().item(),
        folded=aliasing.folded.mean().item(),
        constant=aliasing.constant.mean().item(),
        frequency=tuple(aliasing.frequency.tolist()),
        power=tuple(aliasing.power.mean(dim=0).tolist()),
    )


def merge_aliasing(parts: list[list[LayerAliasing]]) -> list[LayerAliasing]:
    """The mean over all images of several batches, each weighted by its images.

    Args:
        parts: Results of `measure_batch` for the same model; their order decides the last bit.

    Raises:
        UserError: The batches' images differ in size.
    """
    merged = []
    for same in zip(*parts, strict=True):
        sizes = {(part.site, part.map_size) for part in same}
        if len(sizes) > 1:
            raise UserError(
                f"aliasing: expected images of one size, got maps {sorted(size for _, size in sizes)} at {same[0].site}"
            )
        weights = [part.images / sum(part.images for part in same) for part in same]

        def mean(values: Iterable[float], weights: list[float] = weights) -> float:
            return sum(value * weight for value, weight in zip(values, weights, strict=True))

        merged.append(
            LayerAliasing(
                **{
                    **vars(same[0]),
                    "images": sum(part.images for part in same),
                    "above_nyquist": mean(part.above_nyquist for part in same),
                    "folded": mean(part.folded for part in same),
                    "constant": mean(part.constant for part in same),
                    "power": tuple(mean(powers) for powers in zip(*(part.power for part in same), strict=True)),
                }
            )
        )
    return merged
