"""The spectrum of a map that a layer samples: what lies above the new Nyquist frequency, and what of it folds back.

Where a layer filters before it samples, as average and blur pools do, the map is its input after the filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from timm.layers import BlurPool2d
from timm.layers.padding import get_same_padding
from torch import nn

from timm_asap._types import present, undeclared
from timm_asap.conversion import Operation
from timm_asap.conversion.functional import sliding_max
from timm_asap.conversion.geometry import AVG_POOLS, Geometry, as_sizes, geometry_of

__all__ = ["MapAliasing", "filters_before_sampling", "fixed_filter", "map_aliasing", "sampled_map"]


Sizes = tuple[int, ...]

# Values whose spectrum is held at a time: 64 MB in complex128.
_CHUNK = 2**22
# Bins of the spectrum up to the new Nyquist frequency, at most.
_MAX_BINS = 16


@dataclass(frozen=True)
class MapAliasing:
    """What a stride does to the energy of each image's maps, all in float64.

    Attributes:
        above_nyquist: (B,) share of the energy above the new Nyquist frequency.
        folded: (B,) share of the sampled maps' energy that comes from those frequencies.
        constant: (B,) share of the energy that is the maps' means.
        frequency: (K,) middle of each bin of the spectrum, in new Nyquist frequencies.
        power: (B, K) mean power of a frequency in each bin, over that of all frequencies: white noise has 1 throughout.
    """

    above_nyquist: torch.Tensor
    folded: torch.Tensor
    constant: torch.Tensor
    frequency: torch.Tensor
    power: torch.Tensor


def map_aliasing(x: torch.Tensor, stride: Sizes) -> MapAliasing:
    """Split the energy of maps at the highest frequency that a stride's grid can carry.

    On an axis of n samples and stride s a frequency k of the DFT (folded, `|k| <= n / 2`) is above the new Nyquist
    frequency where `|k| > n / (2 s)`; one exactly there can still be carried, and counts as below. A frequency of the
    map is above where it is on either axis. Means count as energy: the shares are of all that is there, and a map that
    is constant but for rounding reads 0 as it should.

    The part above and the part below are sampled one by one, at every s-th sample from the first: `folded` is the
    energy of the first over the sum of both. White noise reads the same in both measures, the share of the frequencies
    that lie above: just under 3/4 at stride 2, where those on the cut count as below.

    Args:
        x: (B, C, *grid) maps as they are before every s-th sample is taken; periodic, as a DFT has it. A grid has one,
            two or three axes.
        stride: Of each axis of the grid.

    Returns:
        Shares per image, summed over channels first; 0 where an image has no energy at all.
    """
    x = x.detach()
    x = x.cpu() if x.device.type == "mps" else x  # which has no float64
    x = x.flatten(1, x.ndim - len(stride) - 1)
    images = max(1, _CHUNK // max(1, x[0].numel()))
    parts = [_split(part.to(torch.float64), stride) for part in x.split(images)]
    frequency = parts[0].frequency
    columns = ("above_nyquist", "folded", "constant", "power")
    return MapAliasing(frequency=frequency, **{c: torch.cat([getattr(p, c) for p in parts]) for c in columns})


def _split(x: torch.Tensor, stride: Sizes) -> MapAliasing:
    size = tuple(x.shape[2:])
    dims = tuple(range(2, x.ndim))
    frequencies, twice = _frequencies(size, x.device)
    above = _over_axes(
        torch.logical_or, [_is_above(k, n, s) for k, n, s in zip(frequencies, size, stride, strict=True)]
    )

    x_freq = torch.fft.rfftn(x, dim=dims)
    energy = (x_freq.real.square() + x_freq.imag.square()).sum(dim=1) * twice
    total = energy.flatten(1).sum(dim=1)

    step = (..., *(slice(None, None, s) for s in stride))
    high = torch.fft.irfftn(x_freq * above, s=size, dim=dims)[step]
    low = x[step] - high
    high_energy, low_energy = (part.square().flatten(1).sum(dim=1) for part in (high, low))

    frequency, members = _bins(frequencies, size, stride)
    counted = members.mul(twice.expand(above.shape).reshape(-1, 1)).sum(dim=0)
    density = energy.flatten(1) @ members / counted
    return MapAliasing(
        above_nyquist=_share((energy * above).flatten(1).sum(dim=1), total),
        folded=_share(high_energy, high_energy + low_energy),
        constant=_share(energy.flatten(1)[:, 0], total),
        frequency=frequency,
        power=_share(density, total[:, None] / math.prod(size)),
    )


def _frequencies(size: Sizes, device: torch.device) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Folded frequencies |k| of each axis of `rfftn`, and how often each of the last axis is in the full DFT."""
    *others, last = size
    full = [torch.arange(n, device=device) for n in others]
    half = torch.arange(last // 2 + 1, device=device)
    twice = torch.where((half == 0) | (2 * half == last), 1.0, 2.0).to(torch.float64)
    return [*(torch.minimum(k, n - k) for k, n in zip(full, others, strict=True)), half], twice


def _over_axes(function: Callable, parts: list[torch.Tensor]) -> torch.Tensor:
    """What a function of two values gives for every combination of one value per axis."""
    shaped = [part.view([-1 if a == axis else 1 for a in range(len(parts))]) for axis, part in enumerate(parts)]
    return reduce(function, shaped)


def _is_above(k: torch.Tensor, n: int, stride: int) -> torch.Tensor:
    """Where |k| > n / (2 s), in whole numbers."""
    return 2 * stride * k > n if stride > 1 else torch.zeros_like(k, dtype=torch.bool)


def _bins(frequencies: list[torch.Tensor], size: Sizes, stride: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Bins of the distance from frequency 0 in new Nyquist frequencies, measured along the largest axis.

    An edge lies on the new Nyquist frequency itself, so that bins are either below it or above. The mean is in none.

    Returns:
        Middle of each bin (K,), and which of the frequencies of `rfftn` are in it, flattened: (., K).
    """
    strided = [(n, s) for n, s in zip(size, stride, strict=True) if s > 1]
    per_unit = min(_MAX_BINS, max([1, *(n // (2 * s) for n, s in strided)]))

    def bin_of(k: torch.Tensor, n: int, s: int) -> torch.Tensor:
        # the ceiling of (2 s k / n) per_unit
        return -(-(2 * s * k * per_unit) // n) if s > 1 else torch.zeros_like(k)

    bins = [bin_of(k, n, s) for k, n, s in zip(frequencies, size, stride, strict=True)]
    index = _over_axes(torch.maximum, bins)
    wanted = torch.arange(1, max(stride) * per_unit + 1, device=index.device)
    members = index.reshape(-1, 1) == wanted
    filled = members.any(dim=0)
    return (wanted[filled] - 0.5) / per_unit, members[:, filled].to(torch.float64)


def _share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)


def filters_before_sampling(layer: nn.Module) -> bool:
    """Whether a layer is a fixed low-pass and a stride in one: an average pool or timm's `BlurPool2d`."""
    return isinstance(layer, (*AVG_POOLS.values(), BlurPool2d))


def fixed_filter(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the layer's filter gives at stride 1 on maps that repeat: padding would make high frequencies anew.

    Args:
        layer: Of those that `filters_before_sampling` knows.
        x: Maps (B, C, *grid) of any floating dtype.

    Returns:
        As `x`; every s-th sample of it is what the layer gives, but for its edges.
    """
    geometry = present(geometry_of(layer), "geometry of such a layer")
    for axis, (size, stride) in enumerate(zip(geometry.kernel_size, geometry.stride, strict=True)):
        dim = axis - geometry.axes
        taps = undeclared(layer).filt[0, 0].sum(dim=0).tolist() if isinstance(layer, BlurPool2d) else [1 / size] * size
        padding = int(get_same_padding(x.shape[dim], size, stride, 1)) // 2 if geometry.same else geometry.padding[axis]
        x = _filter(x, taps, padding, dim)
    return x


def _filter(x: torch.Tensor, taps: list[float], padding: int, dim: int) -> torch.Tensor:
    return reduce(torch.add, (tap * x.roll(padding - index, dims=dim) for index, tap in enumerate(taps)))


def sampled_map(operation: Operation) -> torch.Tensor:
    """What one operation samples, its grid last: its input, or that after the filter or maximum that it is.

    Args:
        operation: One that makes a grid coarser, while its tensors are at hand.
    """
    axes = len(operation.axes)
    x = present(operation.x, "map").movedim(operation.axes, tuple(range(-axes, 0)))
    if "pool" not in operation.kind:
        return x
    numbers = [as_sizes(a, axes) for a in operation.arguments[1:5] if isinstance(a, (list, tuple)) and a]
    exact = operation.kind in ("max-pool", "average pool")
    kernel = numbers[0] if exact else operation.stride
    padding = numbers[2] if exact and len(numbers) > 2 else (0,) * axes
    if "max" in operation.kind:
        dilation = numbers[3] if exact and len(numbers) > 3 else (1,) * axes
        return sliding_max(x, Geometry(kernel, (1,) * axes, padding, dilation), padding)
    for axis, size in enumerate(kernel):
        x = _filter(x, [1 / size] * size, padding[axis], axis - axes)
    return x
