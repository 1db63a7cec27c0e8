"""What blocks and layers become that downsample in their `forward`, not by a stride that `geometry_of` could read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap._types import undeclared
from timm_asap.conversion.filtering import resample, resample_axes
from timm_asap.conversion.functional import REPLACEMENTS, shrinking
from timm_asap.conversion.strided import AsapLayer, input_of

__all__ = [
    "AlternativeFunction",
    "LowPassedFusion",
    "LowPassedMerging",
    "PooledMerging",
    "PooledTokens",
    "called_function",
]


class PooledTokens(AsapLayer):
    """LeViT's strided slice of queries: tokens of a map, taken every other row and column."""

    becomes = "pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool tokens of shape (B, H W, C)."""
        batch, _, channels = x.shape
        image = x.transpose(1, 2).reshape(batch, channels, *undeclared(self).resolution)
        return self._pool(image).flatten(2).transpose(1, 2)


class LowPassedMerging(AsapLayer):
    """Patch merging of Swin's family: a strided 2 x 2 convolution on a grid of tokens (B, H, W, C)."""

    becomes = "low-pass on the grid of tokens, then the merging"
    pools = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Low-pass the grid, then merge the tokens."""
        return self._plain_forward(self._on_grid(x, "lowpass"))

    def _on_grid(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        last = x.ndim - 1
        return resample_axes(x, kind, (last - 2, last - 1), self.asap.geometry.stride, *self.asap.options[:2])


class PooledMerging(LowPassedMerging):
    """The same in the paper's layout: the pool, then the merging of every token with its neighbors, at stride 1."""

    becomes = "pool on the grid of tokens, then the merging at stride 1"
    pools = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool the grid, then merge each token with those right of it and below it, zeros beyond the edges."""
        x = self._on_grid(x, "pool")
        for dim in (x.ndim - 3, x.ndim - 2):
            # The plain block merges samples 2 i and 2 i + 1: they become i and i + 1.
            following = torch.cat([x.narrow(dim, 1, x.shape[dim] - 1), torch.zeros_like(x.narrow(dim, 0, 1))], dim)
            x = torch.stack([x, following], dim + 1).flatten(dim, dim + 1)
        return self._plain_forward(x)


class LowPassedFusion(AsapLayer):
    """MobileNetV5's fusion of scales, which averages or interpolates to a resolution fixed at construction."""

    becomes = "low-pass, then the average or interpolation"
    pools = False

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Fuse maps at the size of the first, low-pass, and bring the result to the output's resolution."""
        block = undeclared(self)
        size, target = inputs[0].shape[-2:], block.output_resolution
        enlarged = [
            F.interpolate(x, size=size, mode=block.interpolation_mode)
            if x.shape[-2] < size[0] or x.shape[-1] < size[1]
            else x
            for x in inputs
        ]
        x = block.ffn(torch.cat(enlarged, dim=1))
        # The stride is known here alone, and need not be whole: then the next whole one, to alias nothing.
        stride = shrinking(tuple(size), tuple(target))
        x = resample(x, "lowpass", stride, self.asap.window, self.asap.boundary)
        if tuple(size) == tuple(target):
            return block.norm(x)
        if any(n % out for n, out in zip(size, target, strict=True)):
            return block.norm(F.interpolate(x, size=target, mode="bilinear"))
        return block.norm(F.avg_pool2d(x, stride, stride))


#: Layers that are one call of a function: the function, and the attributes that its arguments come from.
_CALLS: dict[type[nn.Module], tuple[Callable, tuple[str, ...]]] = {
    nn.AdaptiveAvgPool1d: (F.adaptive_avg_pool1d, ("output_size",)),
    nn.AdaptiveAvgPool2d: (F.adaptive_avg_pool2d, ("output_size",)),
    nn.AdaptiveAvgPool3d: (F.adaptive_avg_pool3d, ("output_size",)),
    nn.AdaptiveMaxPool1d: (F.adaptive_max_pool1d, ("output_size", "return_indices")),
    nn.AdaptiveMaxPool2d: (F.adaptive_max_pool2d, ("output_size", "return_indices")),
    nn.AdaptiveMaxPool3d: (F.adaptive_max_pool3d, ("output_size", "return_indices")),
    nn.FractionalMaxPool2d: (
        F.fractional_max_pool2d,
        ("kernel_size", "output_size", "output_ratio", "return_indices", "_random_samples"),
    ),
    nn.FractionalMaxPool3d: (
        F.fractional_max_pool3d,
        ("kernel_size", "output_size", "output_ratio", "return_indices", "_random_samples"),
    ),
    nn.LPPool1d: (F.lp_pool1d, ("norm_type", "kernel_size", "stride", "ceil_mode")),
    nn.LPPool2d: (F.lp_pool2d, ("norm_type", "kernel_size", "stride", "ceil_mode")),
    nn.LPPool3d: (F.lp_pool3d, ("norm_type", "kernel_size", "stride", "ceil_mode")),
    nn.Upsample: (F.interpolate, ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")),
}


def called_function(cls: type[nn.Module]) -> tuple[Callable, tuple[str, ...]] | None:
    """The function of PyTorch that a layer of a class is one call of, and the attributes that it passes; or None."""
    return next((_CALLS[c] for c in cls.__mro__ if c in _CALLS), None)


class AlternativeFunction(AsapLayer):
    """A layer that is one call of a function of PyTorch: the alias-free version is called with the same arguments.

    For pools whose stride depends on their input, and pools of powers.
    """

    becomes = "the same, low-passed where it shrinks its map"
    pools = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the alias-free function."""
        function, attributes = next(_CALLS[c] for c in self.asap_plain.__mro__ if c in _CALLS)
        arguments = {name: getattr(self, name) for name in attributes}
        return REPLACEMENTS[function].function(self.asap.options, input_of(self, args, kwargs), **arguments)
