"""What a loader fetches: normalised samples whose augmentation depends on seed, epoch and sample alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from timm_asap.data.augment import AugmentConfig, draw_shifts_and_flips, shift_and_flip
from timm_asap.data.splits import LazySplit, TensorSplit


def derive_seed(*numbers: int) -> int:
    """One 32-bit seed out of several numbers, such that changing any of them changes everything drawn."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class EpochDataset(Dataset):
    """A data set that knows its epoch.

    The epoch lies in shared memory: worker processes that outlive an epoch see it change.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that samples are augmented and ordered for, 0 up."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Moves to an epoch; `accelerate` calls this at the start of each pass over a prepared loader."""
        self._epoch.fill_(epoch)


class TensorBatches(EpochDataset):
    """Small images, fetched a batch at a time.

    Args:
        split: The images.
        augment: What happens to them; None for evaluation.
        input_size: (C, H, W) to deliver: grey images are repeated to 3 channels, other sizes interpolated.
        mean: Mean per channel, [0, 1] scale.
        std: Standard deviation per channel.
        seed: Seed of the run.
    """

    def __init__(
        self,
        split: TensorSplit,
        augment: AugmentConfig | None,
        input_size: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
    ) -> None:
        super().__init__(seed)
        self.split = split
        self.augment = augment
        self.input_size = input_size
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self._drawn_epoch = None
        self._drawn = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A whole batch: images float32 (B, C, H, W), labels int64 (B,). `DataLoader` prefers this method."""
        rows = torch.tensor(indices)
        images = self.split.images.index_select(0, rows)
        if self.augment is not None:
            images = shift_and_flip(images, self._draw()[rows], self.augment.crop_padding)
        # the order of torchvision's ToTensor and Normalize: measured through those, logits are the same
        images = images.float().div_(255)
        channels, *size = self.input_size
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        return images.expand(-1, channels, -1, -1).sub(self.mean).div_(self.std), self.split.labels[rows]

    def _draw(self) -> torch.Tensor:
        """The random numbers of the whole epoch, a row per sample."""
        if self._drawn_epoch != self.epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, 1))
            self._drawn = draw_shifts_and_flips(len(self), self.augment, generator)
            self._drawn_epoch = self.epoch
        return self._drawn


class LazyImages(EpochDataset):
    """Large images, decoded and transformed one at a time.

    Args:
        split: The images.
        transform: From a PIL image to a normalised tensor; it may draw from Python's, NumPy's and PyTorch's
            global generators, as timm's transforms do.
        seed: Seed of the run.
    """

    def __init__(self, split: LazySplit, transform: Callable, seed: int) -> None:
        super().__init__(seed)
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.split[index]
        with _global_generators_seeded(derive_seed(self.seed, self.epoch, 2, index)):
            return self.transform(image), label


@contextmanager
def _global_generators_seeded(seed: int) -> Iterator[None]:
    """Seeds the global CPU generators and puts them back: the training loop draws from them, too."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
