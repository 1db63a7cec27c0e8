"""Samples of a stream: decoded and transformed, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from timm_asap.data.images import ImageFileError, stack_images
from timm_asap.data.seeds import derive_seed, global_generators_seeded
from timm_asap.data.small_augment import Changes
from timm_asap.data.small_transform import SmallTransform
from timm_asap.data.splits import StreamSplit, frame_images
from timm_asap.data.unreadable import PADDING_LABEL, UnreadableImages
from timm_asap.errors import UserError

_TABLE_ROWS = 4096


class Sample(NamedTuple):
    """An undecoded sample, and what its augmentation is drawn from: the epoch, and its number over all processes."""

    record: dict
    label: int
    epoch: int
    number: int


class StreamImages(Dataset):
    """Decodes and transforms samples, a batch at a time.

    Args:
        split: Where they come from.
        transform: What happens to them: a `SmallTransform` if the split is one of small images, else from a PIL image
            to a normalised tensor.
        training: Whether samples that cannot be read are replaced (by others of the batch) or labelled as padding.
        seed: Seed of the run.
    """

    def __init__(self, split: StreamSplit, transform: SmallTransform | Callable, training: bool, seed: int) -> None:
        self.split = split
        self.transform = transform
        self.training = training
        self.seed = seed
        self.unreadable = UnreadableImages(split.skip_unreadable)
        self._tables: dict[tuple[int, int], Changes] = {}

    def __getitems__(self, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch: images float32 (B, C, H, W), labels int64 (B,)."""
        samples, images = self._decode(samples)
        labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        if isinstance(self.transform, SmallTransform):
            channels, height, width = self.split.small
            pixels = frame_images(stack_images(images, (width, height), "L" if channels == 1 else "RGB"))
            changes = None if self.transform.augment is None else self._changes(samples)
            return self.transform(pixels, changes), labels
        transformed = []
        for sample, image in zip(samples, images, strict=True):
            with global_generators_seeded(derive_seed(self.seed, sample.epoch, 2, sample.number)):
                transformed.append(self.transform(image))
        return default_collate(transformed), labels

    def _decode(self, samples: list[Sample]) -> tuple[list[Sample], list[Image.Image]]:
        """The samples and their images; where one cannot be read, another of the batch stands in."""
        images = []
        for sample in samples:
            try:
                images.append(self.split.decode(sample.record, f"an image of {self.split.source}"))
            except ImageFileError as error:
                self.unreadable.note(error)
                images.append(None)
        good = [place for place, image in enumerate(images) if image is not None]
        if not good:
            raise UserError(f"no image of a whole batch of {self.split.source} can be read")
        samples = list(samples)
        for place in range(len(samples)):
            if images[place] is None:
                stand_in = max((other for other in good if other < place), default=good[0])
                label = samples[stand_in].label if self.training else PADDING_LABEL
                images[place] = images[stand_in]
                samples[place] = samples[place]._replace(label=label)
        return samples, images

    def _changes(self, samples: list[Sample]) -> Changes:
        """A row of random numbers per sample, looked up in tables that many samples share."""
        rows = [self._table(sample.epoch, sample.number) for sample in samples]
        return Changes(*(None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)))

    def _table(self, epoch: int, number: int) -> Changes:
        key = (epoch, number // _TABLE_ROWS)
        if key not in self._tables:
            while len(self._tables) > 3:
                self._tables.pop(next(iter(self._tables)))
            generator = torch.Generator().manual_seed(derive_seed(self.seed, *key, 7))
            self._tables[key] = self.transform.draw(_TABLE_ROWS, generator)
        row = number % _TABLE_ROWS
        table = self._tables[key]
        return Changes(table.moves[row], None if table.boxes is None else table.boxes[row])
