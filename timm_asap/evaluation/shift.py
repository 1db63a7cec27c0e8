"""Shift consistency: whether a model predicts the same when its image moves by whole or half pixels.

Zhang ("Making Convolutional Networks Shift-Invariant Again", ICML 2019, arXiv 1904.11486, section 4.1) counts how
often the predictions for two shifts of an image agree, both drawn at random from up to 32 pixels. Here one of the two
is the image itself and the other is moved by a given distance, so that the result is a curve over distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from timm_asap.data.seeds import derive_seed
from timm_asap.errors import UserError, unknown_name

__all__ = ["ShiftKind", "ShiftSpec", "shift_consistency", "shift_images"]

# The eight neighbors of a pixel, as (down, right).
_DIRECTIONS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))

# Separates the draw of a direction from other draws of the same seed and image: "shift" in ASCII.
_STREAM = 0x7368696674


class ShiftKind(str, Enum):
    """What enters at the edge that an image moves away from."""

    CIRCULAR = "circular"
    """What left at the opposite edge."""
    CROP = "crop"
    """The image's mirror image, half-sample symmetric: a window moved over the mirrored image."""


@dataclass(frozen=True)
class ShiftSpec:
    """One shift measurement.

    Attributes:
        kind: `"circular"` or `"crop"`.
        pixels: Distance along each axis that moves, in pixels, above 0; need not be whole.
        seed: Decides, with an image's number, which of the eight directions it moves in.
    """

    kind: str
    pixels: float
    seed: int = 0

    def __post_init__(self) -> None:
        kind = _as_kind(self.kind).value
        if not (isinstance(self.pixels, (int, float)) and math.isfinite(self.pixels) and self.pixels > 0):
            raise UserError(f"shift: expected a distance in pixels above 0, got {self.pixels!r}")
        if self.seed < 0:
            raise UserError(f"shift: expected a seed of 0 or more, got {self.seed}")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "pixels", float(self.pixels))

    @property
    def id(self) -> str:
        """The result's name in evaluation.json."""
        return f"shift/{self.kind}/{self.pixels:g}"

    def record(self) -> dict[str, Any]:
        """What evaluation.json says of the measurement, besides its outcome."""
        return {"measure": "shift", "id": self.id, "kind": self.kind, "pixels": self.pixels, "seed": self.seed}

    def displacements(self, indices: torch.Tensor) -> torch.Tensor:
        """How far each image moves.

        The direction depends on the seed and the image's number alone: not on the distance, the kind or the batch.

        Args:
            indices: (B,) the images' numbers in their split.

        Returns:
            float64 (B, 2): pixels down and right, each 0 or `pixels` either way, never both 0.
        """
        drawn = [_DIRECTIONS[derive_seed(self.seed, index, _STREAM) % 8] for index in indices.tolist()]
        return self.pixels * torch.tensor(drawn, dtype=torch.float64).reshape(-1, 2)


def _as_kind(kind: str | ShiftKind) -> ShiftKind:
    try:
        return ShiftKind(kind)
    except ValueError:
        raise UserError(unknown_name("shift", kind, [k.value for k in ShiftKind])) from None


def shift_images(images: torch.Tensor, kind: str, pixels: tuple[float, float] | torch.Tensor) -> torch.Tensor:
    """Move images by whole or fractional pixels.

    Whole pixels are moved without arithmetic. Fractions are band-limited: each frequency is turned by its phase, in
    float64. Nothing is blurred, as bilinear interpolation would do; in return a sharp edge rings, and values may leave
    [0, 1] by some percent. They are not clipped: a clipped image would be no shift of the first.

    A circular shift of an even size has one frequency that cannot turn, the alternation of neighbors (the Nyquist
    frequency): it is multiplied by `cos(pi pixels)`, the mean of its turns either way, which is 0 at half a pixel. The
    mirrored image of `"crop"` has no such part.

    Args:
        images: (B, C, H, W), floating.
        kind: `"circular"` or `"crop"`, as `ShiftKind`.
        pixels: (down, right) for all images, or (B, 2); smaller than the images.

    Returns:
        The moved images, as `images` in shape, dtype and device.

    Raises:
        UserError: The images are no (B, C, H, W) floats, the kind is unknown, or the distance does not fit.

    Examples:
        >>> shift_images(torch.tensor([[[[1.0, 2.0, 3.0]]]]), "crop", (0, 1))
        tensor([[[[1., 1., 2.]]]])
    """
    kind = _as_kind(kind)
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(f"shift: expected float images (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    pixels = torch.as_tensor(pixels, dtype=torch.float64, device="cpu").expand(len(images), 2)
    height, width = images.shape[-2:]
    if not bool((pixels.abs() < torch.tensor([height, width])).all()):
        raise UserError(
            f"shift: expected fewer pixels than the image's {height} x {width}, "
            f"got {pixels.abs().max().item():g}: choose a smaller distance"
        )
    mirrored = kind is ShiftKind.CROP
    pixels = pixels.to(images.device) if images.device.type != "mps" else pixels
    for axis, dim in enumerate((-2, -1)):
        images = _shift_axis(images.movedim(dim, -1), pixels[:, axis], mirrored).movedim(-1, dim)
    return images


def _shift_axis(x: torch.Tensor, pixels: torch.Tensor, mirrored: bool) -> torch.Tensor:
    """Moves (B, ., ., n) along its last axis, image b by pixels[b]."""
    n = x.shape[-1]
    x = torch.cat([x, x.flip(-1)], dim=-1) if mirrored else x
    position = torch.arange(x.shape[-1], device=x.device)
    source = (position - pixels.round().long().to(x.device)[:, None]) % x.shape[-1]
    moved = x.gather(-1, source[:, None, None, :].expand(x.shape))
    fractional = pixels != pixels.round()
    if fractional.any():
        moved = torch.where(fractional.to(x.device)[:, None, None, None], _turn_phases(x, pixels), moved)
    return moved[..., :n]


def _turn_phases(x: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The circular shift by fractions of a pixel."""
    n = x.shape[-1]
    k = torch.arange(n // 2 + 1, dtype=torch.float64, device=pixels.device)
    angle = -2 * math.pi * k * pixels[:, None] / n
    turn = torch.polar(torch.ones_like(angle), angle)
    if n % 2 == 0:
        # not every FFT library drops the imaginary part by itself
        turn[:, -1] = torch.cos(math.pi * pixels)
    x_freq = torch.fft.rfft(x.to(pixels.device, torch.float64)) * turn[:, None, None, :]
    return torch.fft.irfft(x_freq, n=n).to(x)


@torch.no_grad()
def shift_consistency(
    model: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    spec: ShiftSpec,
    indices: torch.Tensor,
    predictions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Whether the predicted class stays when the image moves.

    Args:
        model: Takes pixels in [0, 1], gives logits (B, classes); in eval mode.
        images: (B, C, H, W), pixels in [0, 1].
        spec: The shift.
        indices: (B,) the images' numbers in their split.
        predictions: (B,) classes predicted for the images as they are, where they are known already.

    Returns:
        bool (B,): True where both predictions are the same class, right or wrong. The consistency is their mean in
        percent.

    Raises:
        UserError: As `shift_images`.
    """
    if predictions is None:
        predictions = model(images).argmax(dim=1)
    moved = shift_images(images, spec.kind, spec.displacements(indices))
    return model(moved).argmax(dim=1) == predictions
