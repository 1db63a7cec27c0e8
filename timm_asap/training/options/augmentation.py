"""How training images are changed at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from timm_asap.command_line import metavar
from timm_asap.training.options.flags import Switch, check_range


@dataclass(frozen=True)
class AugmentationOptions:
    """How training images are changed at random."""

    crop_padding: int | None = None
    """Pixels of padding before the random crop of small images; by default what suits the data set."""
    flip: Switch = None
    """Mirror half of the images; by default what suits the data set."""
    crop_scale: float | None = None
    """Least share of the area of a large image that its random crop keeps; 0.08 by default."""
    color_jitter: float | None = None
    """Brightness, contrast and saturation of large images change by up to this share; 0.4 by default."""
    auto_augment: Annotated[str, metavar("POLICY")] | None = None
    """Policy for large images, as timm spells it: rand-m9-mstd0.5-inc1 (RandAugment), original, augmix-m5-w4-d2, or 3a
    (the three of DeiT III)."""
    random_erasing: float = 0.0
    """Probability that a rectangle of the image is replaced by noise."""
    repeated_augment: int = 1
    """How many differently augmented copies of an image an epoch holds; it shows as many times fewer images."""
    mixup: float = 0.0
    """Alpha of mixup: images and labels are blended by a share drawn from Beta(alpha, alpha)."""
    cutmix: float = 0.0
    """Alpha of cutmix: a rectangle comes from another image. With --mixup, one of both is drawn per batch."""
    mixup_prob: float = 1.0
    """Share of the batches that are mixed."""
    mixup_off_epoch: int | None = None
    """Mix no more from this epoch on."""

    def __post_init__(self) -> None:
        check_range(self, "crop_padding color_jitter mixup cutmix mixup_off_epoch", 0)
        check_range(self, "random_erasing mixup_prob", 0, 1)
        check_range(self, "crop_scale", 0, 1, open_low=True)
        check_range(self, "repeated_augment", 1)

    @property
    def mixes(self) -> bool:
        """Whether any batch is mixed."""
        return bool(self.mixup or self.cutmix) and self.mixup_prob > 0
