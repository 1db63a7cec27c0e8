"""Unlabeled images from whatever holds them, as batches that can be gone through several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch

__all__ = ["ImageBatches"]

# BatchNorm normalizes each batch by itself while statistics are measured: of a few images alone, badly.
_SMALLEST_BATCH = 32

# One image in five is set aside to measure what a repair brings, up to 1,000 of them: enough for an interval of 3 %.
_HELD_OUT_EVERY = 5
_MOST_HELD_OUT = 1000
# `timm_asap.data.PADDING_LABEL`, which the core does without.
_UNREADABLE = -1


class ImageBatches:
    """Batches of images, on a device and in a dtype.

    Batches of fewer than 32 images are merged with the next ones, and a short last one with the one before it.

    Args:
        images: A float tensor (N, C, H, W), or an iterable of such batches; of a batch that is a tuple or a list, the
            first entry counts, so that a loader of (images, labels) will do. Images labeled -1, as the loaders of
            `timm_asap.data` label those that cannot be read, are left out.
        device: Where the batches are put.
        dtype: What they are cast to.
        limit: Stop after so many images; None takes all.
        batch_size: How a tensor is divided.

    What an iterator yields, which can be gone through but once, is kept in memory.

    Raises:
        TypeError: `images` is neither.
    """

    def __init__(
        self,
        images: torch.Tensor | Iterable[Any],
        device: torch.device,
        dtype: torch.dtype,
        limit: int | None = None,
        batch_size: int = 128,
    ) -> None:
        if isinstance(images, (str, bytes, dict)) or not isinstance(images, Iterable):
            raise TypeError(f"images: expected a tensor, batches or a data loader, got {type(images).__name__}")
        self.device, self.dtype, self.limit, self.batch_size = device, dtype, limit, batch_size
        #: Images of the last whole pass.
        self.count = 0
        if isinstance(images, Iterator):
            images = list(_limited(map(_checked, images), limit))
        self.images = images
        self.held_out: tuple[torch.Tensor, ...] = ()
        self._held_out_digests: frozenset[int] = frozenset()

    def hold_out(self) -> tuple[torch.Tensor, ...]:
        """Set every fifth image aside, 1,000 at most; from now on, this object is without them.

        They are known by their pixels: a loader may shuffle, and copies of an image are set aside with it.

        Returns:
            Batches of those set aside, on the CPU.
        """
        found, number = [], 0
        for batch in _limited(self._source(), self.limit):
            chosen = (torch.arange(number, number + len(batch)) % _HELD_OUT_EVERY) == 0
            found.append(batch[chosen.to(batch.device)].cpu())
            number += len(batch)
            if number >= _HELD_OUT_EVERY * _MOST_HELD_OUT:
                break
        if number < 3:
            raise ValueError(
                f"images: expected at least 3 different ones, got {number}; an iterator used before is empty"
            )
        self.held_out = tuple(part for part in found if len(part))
        self._held_out_digests = frozenset(map(_digest, chain.from_iterable(self.held_out)))
        return self.held_out

    def _without_held_out(self, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for batch in batches:
            if self._held_out_digests:
                kept = [i for i, image in enumerate(batch) if _digest(image) not in self._held_out_digests]
                batch = batch if len(kept) == len(batch) else batch[kept]
            if len(batch):
                yield batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The batches.

        Raises:
            TypeError, ValueError: A batch is no float tensor (B, C, H, W), sizes differ within what must be merged,
                or there are fewer than two images.
        """
        count = 0
        for batch in _merged(self._without_held_out(_limited(self._source(), self.limit))):
            count += len(batch)
            if count < 2:
                break
            yield batch.to(self.device, self.dtype)
        if count < 2:
            aside = sum(map(len, self.held_out))
            raise ValueError(
                f"images: expected at least {2 + bool(aside)} different ones, got {count + aside}"
                + (f", of which {aside} held out to measure on" if aside else "; an iterator used before is empty")
            )
        self.count = count

    def _source(self) -> Iterator[torch.Tensor]:
        if not isinstance(self.images, torch.Tensor):
            return map(_checked, self.images)
        images = _checked(self.images)[: self.limit]
        # Parts of nearly equal size, where splitting by `batch_size` would leave a short last one.
        parts = max(1, -(-len(images) // self.batch_size))
        return iter(images.tensor_split(parts))


def _checked(batch: Any) -> torch.Tensor:
    """The images of one batch."""
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected batches of tensors, or (images, labels), got {type(images).__name__}")
    if images.ndim != 4:
        raise ValueError(f"images: expected batches of shape (B, C, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images: expected floating-point images, normalized for the model, got {images.dtype}")
    images = images.detach()
    labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if isinstance(labels, torch.Tensor) and labels.shape == images.shape[:1] and (labels == _UNREADABLE).any():
        images = images[(labels != _UNREADABLE).to(images.device)]  # stand for images that cannot be read
    return images


def _digest(image: torch.Tensor) -> int:
    """A number that an image's pixels have."""
    return hash(image.cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _limited(batches: Iterator[torch.Tensor], limit: int | None) -> Iterator[torch.Tensor]:
    """The batches up to a number of images; no batch beyond it is asked for."""
    left = limit
    for batch in batches:
        part = batch if left is None else batch[:left]
        yield part
        left = None if left is None else left - len(part)
        if left == 0:
            return


def _merged(batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Batches of 32 images or more, as long as there are so many."""
    ready: list[torch.Tensor] = []
    pending: list[torch.Tensor] = []
    for batch in batches:
        pending.append(batch)
        if sum(map(len, pending)) >= _SMALLEST_BATCH:
            if ready:
                yield _joined(ready)
            ready, pending = pending, []
    if ready or pending:
        yield _joined(list(chain(ready, pending)))


def _joined(batches: list[torch.Tensor]) -> torch.Tensor:
    if len({batch.shape[1:] for batch in batches}) > 1:
        raise ValueError(
            f"images: batches of fewer than {_SMALLEST_BATCH} images are merged, and these differ in size: "
            f"{', '.join(str(tuple(batch.shape)) for batch in batches)}; resize them, or give larger batches"
        )
    return batches[0] if len(batches) == 1 else torch.cat(batches)
