"""Which random changes training makes to an image."""

from __future__ import annotations

from dataclasses import dataclass

from timm.data.auto_augment import (
    augment_and_mix_transform,
    auto_augment_transform,
    rand_augment_transform,
)

from timm_asap.errors import UserError, unknown_name

CROP_MODES = ("rrc", "rkrc", "rkrr")
"""timm's random crops: resized crop; resize keeping the ratio, then a centre crop, or a random one."""

ERASING_MODES = ("const", "rand", "pixel")
"""timm's fillings of an erased rectangle: the mean, one random colour, or noise."""


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
    """3-Augment: grey, solarized or blurred, one of them per image, then color jitter; large images only."""

    re_prob: float = 0.0
    """Probability that rectangles of an image are erased, 2 to 33 % of its area in all."""

    re_mode: str = "pixel"
    """What they are filled with, after normalisation: zeros ("const"), one normally distributed colour ("rand"), or
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
