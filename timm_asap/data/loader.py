"""Loaders whose batches depend on the seed, the epoch and nothing else.

Shuffling and augmentation are drawn per epoch and looked up by sample: a sample looks the same whatever the
batch size and the number of worker or training processes, and a run that resumes within an epoch
(`accelerate.skip_first_batches`) sees what it would have seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from timm_asap.data.augment import AugmentConfig, default_augment
from timm_asap.data.config import PixelConfig
from timm_asap.data.images import ImageFileError, cut_ends
from timm_asap.data.seeds import derive_seed, global_generators_seeded
from timm_asap.data.small_images import Changes, SmallTransform
from timm_asap.data.splits import (
    PADDING_LABEL,
    ImageDataset,
    ImageSplit,
    Split,
    StreamSplit,
    TensorSplit,
    UnreadableImages,
)
from timm_asap.data.stream_loader import StreamLoader, build_stream_loader
from timm_asap.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EpochDataset(Dataset):
    """A data set that knows its epoch.

    The epoch lies in shared memory: worker processes that outlive an epoch see it change.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} does not say how many samples it has")

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
        self._drawn: tuple[int, Changes] | None = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A whole batch: images float32 (B, C, H, W), labels int64 (B,). `DataLoader` prefers this method."""
        numbers = torch.tensor(indices)
        rows = numbers % len(self)
        augment = self.transform.augment
        changes = None if augment is None else self._draw(augment.repeats).take(numbers)
        return self.transform(self.split.images.index_select(0, rows), changes), self.split.labels[rows]

    def _draw(self, repeats: int) -> Changes:
        """The random numbers of the whole epoch, a row per sample."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, 1))
            self._drawn = self.epoch, self.transform.draw(len(self) * repeats, generator)
        return self._drawn[1]


class LazyImages(EpochDataset):
    """Large images, decoded and transformed one at a time; further augmentations are asked for as of `TensorBatches`.

    Args:
        split: The images.
        transform: From a PIL image to a normalized tensor; it may draw from Python's, NumPy's and PyTorch's
            global generators, as timm's transforms do.
        training: Whether images that cannot be read, where they are skipped, are replaced by the one that follows.
            In evaluation they become black, labeled `PADDING_LABEL`.
        seed: Seed of the run.
    """

    def __init__(self, split: ImageSplit, transform: Callable, training: bool, seed: int) -> None:
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


class EpochSampler(Sampler[int]):
    """Shuffles by the seed and epoch of its data set.

    `accelerate` passes an epoch on to the sampler or to the data set, depending on how the loader is sharded
    or skipped. The data set keeps it for both, so both always agree.

    With repeats, as of timm's `RepeatAugSampler`, copies of an image follow each other and the epoch stops after as
    many samples as the data set has. The copies are numbered on: sample i, then i + N, i + 2 N.

    Args:
        dataset: What to shuffle.
        repeats: Copies of an image per epoch, to be augmented differently.
    """

    def __init__(self, dataset: EpochDataset, repeats: int = 1) -> None:
        self.dataset = dataset
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.dataset.seed, self.dataset.epoch, 0))
        order = torch.randperm(len(self), generator=generator)
        copies = order[:, None] + len(self) * torch.arange(self.repeats)
        yield from copies.flatten()[: len(self)].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Moves the data set, and so the sampler, to an epoch."""
        self.dataset.set_epoch(epoch)


class _Options(TypedDict, total=False):
    """The keywords of `build_loader` that may be left out, for its two signatures."""

    augment: AugmentConfig | None
    pixels: PixelConfig | None
    seed: int
    num_workers: int
    drop_last: bool | None
    steps_per_epoch: int | None
    num_processes: int
    process_index: int


@overload
def build_loader(
    split: TensorSplit | ImageSplit,
    dataset: ImageDataset,
    batch_size: int,
    *,
    training: bool,
    **options: Unpack[_Options],
) -> DataLoader: ...


@overload
def build_loader(
    split: Split, dataset: ImageDataset, batch_size: int, *, training: bool, **options: Unpack[_Options]
) -> DataLoader | StreamLoader: ...


def build_loader(
    split: Split,
    dataset: ImageDataset,
    batch_size: int,
    *,
    training: bool,
    augment: AugmentConfig | None = None,
    pixels: PixelConfig | None = None,
    seed: int = 0,
    num_workers: int = 0,
    drop_last: bool | None = None,
    steps_per_epoch: int | None = None,
    num_processes: int = 1,
    process_index: int = 0,
    **older: Any,
) -> DataLoader | StreamLoader:
    """A loader of batches (images float32 (B, C, H, W), normalized; labels int64 (B,)).

    Args:
        split: `dataset.train`, `dataset.val` or `dataset.test`.
        dataset: Where it comes from; gives the defaults.
        batch_size: Samples per batch and training process.
        training: Whether to shuffle and augment.
        augment: Random changes in training; by default those usual for the data set.
        pixels: How the images are prepared; by default as the data set says.
        seed: Seed of shuffling and augmentation.
        num_workers: Processes that decode and transform large images. Small ones never use any: handed over
            between processes they came eight times slower (25,000 a second instead of 200,000, 32 x 32 gray).
        drop_last: Leave out an incomplete last batch; by default in training, if there is a complete one.
        steps_per_epoch: Batches per epoch of a stream in training; by default a pass, if the length is known.
        num_processes: Processes that share a stream. Other splits are shared by `accelerate`, and take no notice.
        process_index: Of this process.
        older: Fields of `pixels` one by one, as they were passed before it; deprecated.

    Raises:
        UserError: The sizes do not fit together, or the length of a stream is not known.
    """
    pixels = pixels or PixelConfig()
    if older:
        if unknown := sorted(older.keys() - PixelConfig.__dataclass_fields__.keys()):
            raise TypeError(f"build_loader() got an unexpected keyword argument {unknown[0]!r}")
        warnings.warn(f"{', '.join(older)} of build_loader are fields of pixels now", DeprecationWarning, stacklevel=2)
        pixels = replace(pixels, **older)
    channels, height, width = pixels.input_size or dataset.image_size
    input_size = (channels, height, width)
    mean, std = pixels.mean or dataset.mean, pixels.std or dataset.std
    settled = replace(pixels, input_size=input_size, mean=mean, std=std)
    augment = augment or default_augment(dataset.name)
    _check_sizes(split, dataset, batch_size, input_size, mean, std)

    def small_transform() -> SmallTransform:
        return SmallTransform(augment if training else None, input_size, mean, std, seed)

    def large_transform() -> Callable:
        return _large_transform(training, augment, settled)

    if isinstance(split, StreamSplit):
        if training and augment.repeats > 1:
            raise UserError("repeated augmentation needs images at random: leave --streaming or the repeats out")
        return build_stream_loader(
            split,
            large_transform() if split.small is None else small_transform(),
            batch_size,
            training=training,
            seed=seed,
            num_workers=num_workers,
            steps_per_epoch=steps_per_epoch,
            num_processes=num_processes,
            process_index=process_index,
        )
    if isinstance(split, TensorSplit):
        num_workers = 0
        samples = TensorBatches(split, small_transform(), seed)
    else:
        samples = LazyImages(split, large_transform(), training, seed)
    if drop_last is None:
        drop_last = training and len(split) >= batch_size
    return DataLoader(
        samples,
        batch_size=batch_size,
        sampler=EpochSampler(samples, augment.repeats) if training else None,
        drop_last=drop_last,
        collate_fn=_already_batched if isinstance(split, TensorSplit) else default_collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # its own generator: otherwise each pass draws a number from the one that the model's dropout uses
        generator=torch.Generator().manual_seed(seed),
    )


def set_epoch(loader: DataLoader | StreamLoader, epoch: int) -> None:
    """Moves a loader, prepared by `accelerate` or not, to the shuffling and augmentation of an epoch.

    A prepared loader goes on to the next epoch by itself after each whole pass; a plain one stays.

    Args:
        loader: What `build_loader` made.
        epoch: 0 up.
    """
    target: Any = loader if hasattr(loader, "set_epoch") else loader.dataset
    target.set_epoch(epoch)


def count_unreadable(loader: DataLoader | StreamLoader) -> int:
    """How many images this process could not read and skipped so far, its workers included."""
    unreadable = getattr(loader.dataset, "unreadable", None)
    return 0 if unreadable is None else unreadable.count


def _large_transform(training: bool, augment: AugmentConfig, pixels: PixelConfig) -> Callable:
    transform: Any = create_transform(
        **pixels.data_config(),
        is_training=training,
        train_crop_mode=augment.train_crop_mode,
        scale=augment.crop_scale,
        ratio=augment.crop_ratio,
        hflip=0.5 if augment.horizontal_flip else 0.0,
        color_jitter=augment.color_jitter,
        auto_augment=augment.policy,
        re_prob=augment.re_prob,
        re_mode=augment.re_mode,
        re_count=augment.re_count,
    )
    # the random resized crop cuts first and resizes then
    bounded = training and augment.train_crop_mode == "rrc"
    return transform if bounded else _CutEnds(transform)


class _CutEnds:
    """A transform that begins with a resize by the short side, of images that are not too long for it."""

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.transform(cut_ends(image))


def _already_batched(batch: Any) -> Any:
    return batch


def _check_sizes(
    split: Split,
    dataset: ImageDataset,
    batch_size: int,
    input_size: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    if batch_size < 1:
        raise UserError(f"--batch-size is a number from 1 up, got {batch_size}")
    if isinstance(split, TensorSplit):
        came = split.images.shape[1]
    else:
        came = split.small[0] if isinstance(split, StreamSplit) and split.small else 3
    if input_size[0] != came and came != 1:
        raise UserError(
            f"data set {dataset.name!r} has {came} channels per image, the network takes {input_size[0]}: "
            f"create it with in_chans={came}"
        )
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, input_size[0]):
            raise UserError(f"{name} has {len(values)} values for images of {input_size[0]} channels")
