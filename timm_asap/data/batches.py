"""What a loader fetches: normalised samples whose augmentation depends on seed, epoch and sample alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch.utils.data import Dataset

from timm_asap.data.images import ImageFileError
from timm_asap.data.seeds import derive_seed, global_generators_seeded
from timm_asap.data.small_augment import Changes
from timm_asap.data.small_transform import SmallTransform
from timm_asap.data.splits import LazySplit, TensorSplit
from timm_asap.data.unreadable import PADDING_LABEL, UnreadableImages
from timm_asap.errors import UserError


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

    Samples are asked for by their number, or, for a further augmentation of the same image, by that number plus a
    multiple of the length (`AugmentConfig.repeats`).

    Args:
        split: The images.
        transform: What happens to them.
        seed: Seed of the run.
    """

    def __init__(self, split: TensorSplit, transform: SmallTransform, seed: int) -> None:
        super().__init__(seed)
        self.split = split
        self.transform = transform
        self._drawn_epoch = None
        self._drawn = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A whole batch: images float32 (B, C, H, W), labels int64 (B,). `DataLoader` prefers this method."""
        numbers = torch.tensor(indices)
        rows = numbers % len(self)
        changes = None if self.transform.augment is None else self._draw().take(numbers)
        return self.transform(self.split.images.index_select(0, rows), changes), self.split.labels[rows]

    def _draw(self) -> Changes:
        """The random numbers of the whole epoch, a row per sample."""
        if self._drawn_epoch != self.epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, 1))
            self._drawn = self.transform.draw(len(self) * self.transform.augment.repeats, generator)
            self._drawn_epoch = self.epoch
        return self._drawn


class LazyImages(EpochDataset):
    """Large images, decoded and transformed one at a time; further augmentations are asked for as of `TensorBatches`.

    Args:
        split: The images.
        transform: From a PIL image to a normalised tensor; it may draw from Python's, NumPy's and PyTorch's
            global generators, as timm's transforms do.
        training: Whether images that cannot be read, where they are skipped, are replaced by the one that follows.
            In evaluation they become black, labelled `PADDING_LABEL`.
        seed: Seed of the run.
    """

    def __init__(self, split: LazySplit, transform: Callable, training: bool, seed: int) -> None:
        super().__init__(seed)
        self.split = split
        self.transform = transform
        self.training = training
        self.unreadable = UnreadableImages(split.skip_unreadable)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self._read(index % len(self))
        with global_generators_seeded(derive_seed(self.seed, self.epoch, 2, index)):
            return self.transform(image), label

    def _read(self, number: int) -> tuple[Image.Image, int]:
        for other in [*range(number, len(self)), *range(number)]:
            try:
                return self.split[other]
            except ImageFileError as error:
                self.unreadable.note(error)
            if not self.training:
                return Image.new("RGB", (256, 256)), PADDING_LABEL
        raise UserError(f"none of {len(self)} images can be read")
