"""From batches of small images to what the network takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from timm_asap.data.augment import AugmentConfig
from timm_asap.data.seeds import derive_seed
from timm_asap.data.small_augment import Changes, draw_changes, draw_noise, erase, shift_and_flip
from timm_asap.errors import UserError


class SmallTransform:
    """Changes and normalises batches of small images.

    Args:
        augment: What happens to them; None for evaluation.
        input_size: (C, H, W) to deliver: grey images are repeated to 3 channels, other sizes interpolated.
        mean: Mean per channel, [0, 1] scale.
        std: Standard deviation per channel.
        seed: Seed of the run.

    Raises:
        UserError: The augmentation is one for large images.
    """

    def __init__(
        self,
        augment: AugmentConfig | None,
        input_size: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
    ) -> None:
        if augment is not None and augment.policy is not None:
            raise UserError(
                f"auto-augment {augment.policy!r} is for images above 64 pixels: leave it out for small ones"
            )
        self.augment = augment
        self.input_size = input_size
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.noise = None
        if augment is not None and augment.re_prob > 0:
            generator = torch.Generator().manual_seed(derive_seed(seed, 5))
            self.noise = draw_noise(input_size[0], input_size[1:], generator)

    def draw(self, count: int, generator: torch.Generator) -> Changes:
        """The random numbers of a number of samples."""
        return draw_changes(count, self.input_size[1:], self.augment, generator)

    def __call__(self, images: torch.Tensor, changes: Changes | None) -> torch.Tensor:
        """Transforms a batch.

        Args:
            images: uint8, (B, C, H, W).
            changes: A row per image; None for evaluation.

        Returns:
            float32, (B, *input_size).
        """
        if changes is not None:
            images = shift_and_flip(images, changes.moves, self.augment.crop_padding)
        # the order of torchvision's ToTensor and Normalize: measured through those, logits are the same
        images = images.float().div_(255)
        channels, *size = self.input_size
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        images = images.expand(-1, channels, -1, -1).sub(self.mean).div_(self.std)
        if changes is not None and changes.boxes is not None:
            erase(images, changes.boxes, self.augment.re_mode, self.noise)
        return images
