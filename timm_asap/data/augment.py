"""Random changes to training images: augmentation of one, mixup and cutmix of two by timm's `Mixup`.

Reference: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization" (arXiv:1710.09412); S. Yun et al., "CutMix"
(arXiv:1905.04899).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.data import Mixup
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

from timm_asap.data.seeds import derive_seed, global_generators_seeded
from timm_asap.errors import UserError, unknown_name

CROP_MODES = ("rrc", "rkrc", "rkrr")
"""timm's random crops: resized crop; resize keeping the ratio, then a center crop, or a random one."""

ERASING_MODES = ("const", "rand", "pixel")
"""timm's fillings of an erased rectangle: the mean, one random color, or noise."""


@dataclass(frozen=True)
class AugmentConfig:
    """The random changes that training images go through. The defaults change nothing in small images.

    Small images have no side above 64 pixels and are changed a batch at a time; the others are large, and changed by
    timm's transforms. Names and units are timm's.
    """

    crop_padding: int = 0
    """Small images are shifted by up to this many pixels each way (padded with zeros, then cropped)."""

    horizontal_flip: bool = False
    """Mirror every other image, left to right."""

    crop_scale: tuple[float, float] | None = None
    """Large images are cropped to a share of their area drawn from this range, then resized; by default 0.08 to 1
    ("rrc") or 0.8 to 1."""

    crop_ratio: tuple[float, float] | None = None
    """Range of the width of a crop over its height, large images; by default 3/4 to 4/3 ("rrc") or 0.9 to 1/0.9."""

    train_crop_mode: str = "rrc"
    """How large images are cropped: "rrc", "rkrc" or "rkrr"."""

    color_jitter: float = 0.4
    """Brightness, contrast and saturation of large images change by up to this share. timm leaves it out under
    `auto_augment`, except with "3a"."""

    auto_augment: str | None = None
    """Policy for large images, as timm spells it: "rand-m9-mstd0.5-inc1", "original-mstd0.5", "augmix-m5-w4-d2"."""

    three_augment: bool = False
    """3-Augment: gray, solarized or blurred, one of them per image, then color jitter; large images only."""

    re_prob: float = 0.0
    """Probability that rectangles of an image are erased, 2 to 33 % of its area in all."""

    re_mode: str = "pixel"
    """What they are filled with, after normalization: zeros ("const"), one normally distributed color ("rand"), or
    normal noise ("pixel")."""

    re_count: int = 1
    """Most rectangles per image."""

    repeats: int = 1
    """Differently augmented copies of an image per epoch (repeated augmentation). The epoch keeps its number of
    samples, and so holds as many times fewer images."""

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise UserError(f"crop padding is a number of pixels from 0 up, got {self.crop_padding}")
        _check_range("crop scale is two shares of the area", self.crop_scale, highest=1)
        _check_range("crop ratio is two ratios of width to height", self.crop_ratio, highest=float("inf"))
        if self.train_crop_mode not in CROP_MODES:
            raise UserError(unknown_name("crop mode", self.train_crop_mode, CROP_MODES))
        if not self.color_jitter >= 0:
            raise UserError(f"color jitter is a share from 0 up, got {self.color_jitter}")
        if not 0 <= self.re_prob <= 1:
            raise UserError(f"random erasing has a probability from 0 to 1, got {self.re_prob}")
        if self.re_mode not in ERASING_MODES:
            raise UserError(unknown_name("mode of random erasing", self.re_mode, ERASING_MODES))
        for what, number in (("the rectangles of random erasing", self.re_count), ("repeats", self.repeats)):
            if number < 1:
                raise UserError(f"{what} are a number from 1 up, got {number}")
        if self.three_augment and self.auto_augment is not None:
            raise UserError(f"3-Augment is a policy of its own: leave out auto-augment {self.auto_augment!r}")
        if self.auto_augment is not None:
            _try_policy(self.auto_augment)

    @property
    def policy(self) -> str | None:
        """What timm calls `auto_augment`, 3-Augment included."""
        return "3a" if self.three_augment else self.auto_augment


def _check_range(what: str, given: tuple[float, float] | None, highest: float) -> None:
    if given is None:
        return
    low, high = given
    if not 0 < low <= high <= highest:
        limit = f" <= {highest}" if highest == 1 else ""
        raise UserError(f"{what}, 0 < low <= high{limit}, got {low} {high}")


def _try_policy(policy: str) -> None:
    """timm reads the policy when it builds the transform: build one here, where the error can name what is wrong."""
    if policy.startswith("rand"):
        build = rand_augment_transform
    elif policy.startswith("augmix"):
        build = augment_and_mix_transform
    else:
        build = auto_augment_transform
    try:
        build(policy, {"translate_const": 100, "img_mean": (128, 128, 128)})
    except (AssertionError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"auto-augment {policy!r} is no policy of timm: expected one such as rand-m9-mstd0.5-inc1, "
            "original-mstd0.5, augmix-m5-w4-d2 or 3a"
        ) from error


# The first word found in a data set's name decides. A mirrored digit or letter is no digit or letter.
_BY_WORD = {
    "fashion": AugmentConfig(crop_padding=2, horizontal_flip=True),
    "mnist": AugmentConfig(crop_padding=2),
    "digits": AugmentConfig(crop_padding=2),
    "svhn": AugmentConfig(crop_padding=4),
    "idx": AugmentConfig(crop_padding=2),
}


def default_augment(name: str) -> AugmentConfig:
    """The usual augmentation for a data set: CIFAR's (shift by 4 pixels, flip) unless its name is known."""
    for word, augment in _BY_WORD.items():
        if word in name.lower():
            return augment
    return AugmentConfig(crop_padding=4, horizontal_flip=True)


MIXUP_MODES = ("batch", "pair", "elem")


@dataclass(frozen=True)
class MixupConfig:
    """How the images of a batch are mixed. The defaults mix nothing. Names are timm's."""

    mixup_alpha: float = 0.0
    """Images and labels are blended by a share drawn from Beta(alpha, alpha); 0 for never."""

    cutmix_alpha: float = 0.0
    """A rectangle of this share of the area, drawn likewise, comes from the other image; 0 for never."""

    prob: float = 1.0
    """Fraction of the batches (or pairs, or images) that are mixed."""

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

    `images` (B, C, H, W), normalized, on any device, are overwritten; `labels` are int64 (B,); `targets` are float32
    (B, num_classes), for a loss that takes class probabilities. The mixing depends on the numbers alone: give it the
    seed, the epoch, the step and the process's index, and a run that resumes mixes as it would have mixed. The global
    generators are left as they were.

    Args:
        config: How to mix; where it mixes nothing, images stay and targets are one-hot.
        num_classes: Number of classes.
        label_smoothing: Fraction of the target spread evenly over all classes, in [0, 1).

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
