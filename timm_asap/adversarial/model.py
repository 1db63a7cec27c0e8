"""A classifier that takes pixels, so that an attack works on what an attacker would change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class PixelModel(nn.Module):
    """A classifier of pixels in [0, 1]: normalises, then calls the model.

    Its state dict is the model's under the prefix `model.`; mean and std are not part of it.

    Args:
        model: A network that takes normalised images.
        mean: Mean per channel on the [0, 1] scale, one number per channel or one for all.
        std: Standard deviation per channel, likewise.

    Shape:
        (B, C, H, W) -> (B, classes). Normalisation runs in float32 and the network in the dtype of its first
        parameter; float32 logits come back, whatever dtype the network computes in.

    Example:
        >>> pixels = PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), mean=[0.5], std=[0.25])
        >>> pixels(torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, images: torch.Tensor, *more: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits of each batch given, one after the other.

        Several batches in one call, for a loss of them all: called twice before a backward pass,
        DistributedDataParallel overwrites the BatchNorm statistics that the first pass saved for its gradient, which
        is an error up to recent releases of PyTorch (pytorch/pytorch, issue 175024).

        Args:
            images: Pixels in [0, 1].
            more: Further batches of them.

        Returns:
            One tensor of logits, or a tuple of as many as there were batches.
        """
        logits = tuple(self._logits(batch) for batch in (images, *more))
        return logits if more else logits[0]

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        normalised = (images - self.mean.float()) / self.std.float()
        parameter = next(self.model.parameters(), None)
        if parameter is not None and parameter.is_floating_point():
            normalised = normalised.to(parameter.dtype)
        return self.model(normalised).float()


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1)
