"""Mixup and cutmix: blends of two images and of their labels, by timm's `Mixup`.

Reference: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization" (arXiv:1710.09412); S. Yun et al., "CutMix"
(arXiv:1905.04899).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.data import Mixup

from timm_asap.data.seeds import derive_seed, global_generators_seeded
from timm_asap.errors import UserError, unknown_name

MIXUP_MODES = ("batch", "pair", "elem")


@dataclass(frozen=True)
class MixupConfig:
    """How the images of a batch are mixed. The defaults mix nothing. Names are timm's."""

    mixup_alpha: float = 0.0
    """Images and labels are blended by a share drawn from Beta(alpha, alpha); 0 for never."""

    cutmix_alpha: float = 0.0
    """A rectangle of this share of the area, drawn likewise, comes from the other image; 0 for never."""

    prob: float = 1.0
    """Share of the batches (or pairs, or images) that are mixed."""

    switch_prob: float = 0.5
    """Share of cutmix, where both are on."""

    mode: str = "batch"
    """Draw once per batch, per pair of images ("pair") or per image ("elem")."""

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name.replace('_', ' ')} is a number from 0 up, got {getattr(self, name)}")
        for name in ("prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"mixup's {name} is a probability from 0 to 1, got {getattr(self, name)}")
        if self.mode not in MIXUP_MODES:
            raise UserError(unknown_name("mode of mixup", self.mode, MIXUP_MODES))

    @property
    def mixes(self) -> bool:
        """Whether any batch is mixed."""
        return self.prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


def build_mixup(
    config: MixupConfig, num_classes: int, label_smoothing: float = 0.0
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """A function from (images, labels, *numbers) to (images, targets).

    `images` (B, C, H, W), normalised, on any device, are overwritten; `labels` are int64 (B,); `targets` are float32
    (B, num_classes), for a loss that takes class probabilities. The mixing depends on the numbers alone: give it the
    seed, the epoch, the step and the process's index, and a run that resumes mixes as it would have mixed. The global
    generators are left as they were.

    Args:
        config: How to mix; where it mixes nothing, images stay and targets are one-hot.
        num_classes: Number of classes.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).

    Raises:
        UserError: By the function, if a batch to mix has an odd number of images.
    """
    mixup = Mixup(
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
        prob=config.prob,
        switch_prob=config.switch_prob,
        mode=config.mode,
        label_smoothing=label_smoothing,
        num_classes=num_classes,
    )
    mixup.mixup_enabled = config.mixes

    def mix(images: torch.Tensor, labels: torch.Tensor, *numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
        if len(images) % 2:
            raise UserError(
                f"mixup and cutmix mix pairs: expected an even number of images per process, got {len(images)}; "
                "change --batch-size"
            )
        with global_generators_seeded(derive_seed(*numbers, 4)):
            return mixup(images, labels)

    return mix
