"""The rows of a stream in an order drawn from the seed and the epoch, and the samples made of them.

The shuffle buffer of `datasets` forgets what it held when its state is saved, so a resumed run would see other
images. Here the rows are drawn from blocks instead: a block's rows are those that follow its beginning, so the state
is where the block begins and how many of its rows were given away. A row is read for each that is given away; at no
time are more rows held than the buffer's size. Samples are decoded and transformed a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from timm_asap.data.columns import features_of, row_value
from timm_asap.data.images import ImageFileError, stack_images
from timm_asap.data.seeds import derive_seed, global_generators_seeded
from timm_asap.data.small_images import Changes, SmallTransform
from timm_asap.data.splits import PADDING_LABEL, StreamSplit, UnreadableImages, frame_images
from timm_asap.data.tables import one_line, read_errors
from timm_asap.errors import UserError

if TYPE_CHECKING:
    import datasets


Row = tuple[dict, int]
"""An undecoded image and its class number."""


class Shards:
    """The rows of some shards, one shard after another, for one process of several.

    If the shards divide evenly among the processes, each process reads its own. Otherwise each reads all and keeps one
    row of several (the rule of `datasets.distributed.split_dataset_by_node`).

    Args:
        split: The stream.
        order: The shards, as numbers.
        process_index: Of this process.
        num_processes: Of all.
        state: Where to begin, as `state_dict` gave it; at the beginning by default.
    """

    def __init__(
        self,
        split: StreamSplit,
        order: list[int],
        process_index: int = 0,
        num_processes: int = 1,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.split = split
        self.by_shards = len(order) % num_processes == 0
        self.order = order[process_index::num_processes] if self.by_shards else order
        self.process_index, self.num_processes = process_index, num_processes
        self._shard = 0 if state is None else state["shard"]
        self._within = None if state is None else state["within"]
        self._open = None

    def state_dict(self) -> dict[str, Any]:
        """Where the next row is, as plain numbers, texts and dicts of them."""
        within = self._within if self._open is None else self._open.state_dict()
        return {"shard": self._shard, "within": within}

    def __iter__(self) -> Iterator[Row]:
        while self._shard < len(self.order):
            shard = self._begin(self.order[self._shard])
            rows = iter(shard)
            while (row := self._next(rows)) is not None:
                # only now: before its first row, a stream that resumes does not tell its state
                self._open = shard
                yield self._encoded(row)
            self._open = self._within = None
            self._shard += 1

    def _begin(self, number: int) -> datasets.IterableDataset:
        from datasets.distributed import split_dataset_by_node

        dataset = self.split.dataset
        shard = dataset.shard(num_shards=dataset.num_shards, index=number)
        if not self.by_shards:
            # the process that gets the odd row of a shard is another one at each
            turn = (self.process_index + self._shard) % self.num_processes
            shard = split_dataset_by_node(shard, turn, self.num_processes)
        if self._within is not None:
            shard.load_state_dict(self._within)
        return shard

    def _next(self, rows: Iterator[dict]) -> dict | None:
        try:
            return next(rows, None)
        except read_errors() as error:
            raise UserError(f"cannot go on reading {self.split.source}: {one_line(error)}") from error

    def _encoded(self, row: dict) -> Row:
        split = self.split
        label = row_value(row, features_of(split.dataset), split.label_key)
        return row[split.image_key], split.encoder.number(label, f"a row of {split.source}")


class ShuffledRows:
    """The rows of one process in one epoch, without end: pass after pass over its part of the stream.

    Which rows come depends on the seed, the epoch and the number of processes alone.

    Args:
        split: The stream.
        seed: Seed of the run.
        epoch: Epoch of the run, 0 up.
        process_index: Of this process.
        num_processes: Of all.
        state: Where to begin, as `state_dict` gave it; at the beginning by default.
    """

    def __init__(
        self,
        split: StreamSplit,
        seed: int,
        epoch: int,
        process_index: int = 0,
        num_processes: int = 1,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.split = split
        self.process_index, self.num_processes = process_index, num_processes
        self._numbers = (seed, epoch)
        self._pass, self._block, self._given = 0, 0, 0
        self._block_start = None
        if state is not None:
            self._pass, self._block, self._given = state["pass"], state["block"], state["given"]
            self._block_start = state["block_start"]

    def state_dict(self) -> dict[str, Any]:
        """Where the next row is, as plain numbers, texts and dicts of them."""
        return {
            "pass": self._pass,
            "block": self._block,
            "given": self._given,
            "block_start": self._block_start,
        }

    def __iter__(self) -> Iterator[Row]:
        while True:
            empty = True
            for row in self._one_pass():
                empty = False
                yield row
            if empty and self._block == 0:
                raise UserError(
                    f"{self.split.source} holds no image for process {self.process_index} of {self.num_processes}: "
                    "use fewer processes"
                )
            self._pass += 1
            self._block, self._given, self._block_start = 0, 0, None

    def _one_pass(self) -> Iterator[Row]:
        generator = self._generator(0)
        order = torch.randperm(self.split.dataset.num_shards, generator=generator).tolist()
        # another size in each pass: the same rows do not meet in a block again and again
        largest = self.split.shuffle_buffer
        size = int(torch.randint((largest + 1) // 2, largest + 1, (), generator=generator))
        shards = Shards(self.split, order, self.process_index, self.num_processes, self._block_start)
        rows = iter(shards)
        block: list[Any] = _take(rows, size)  # of rows, and None where one was given
        while block:
            next_start, next_block = shards.state_dict(), []
            order = torch.randperm(len(block), generator=self._generator(1 + self._block)).tolist()
            for place, number in enumerate(order):
                row, block[number] = block[number], None
                next_block += _take(rows, 1)
                if place < self._given:
                    continue
                self._given = place + 1
                yield row
            block = next_block
            self._block, self._given, self._block_start = self._block + 1, 0, next_start

    def _generator(self, number: int) -> torch.Generator:
        # the order of the shards is the same for all processes: they share them
        process = self.process_index if number else 0
        return torch.Generator().manual_seed(derive_seed(*self._numbers, self._pass, number, process, 6))


def _take(rows: Iterator[Row], count: int) -> list[Row]:
    taken = []
    for row in rows:
        taken.append(row)
        if len(taken) == count:
            break
    return taken


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
            to a normalized tensor.
        training: Whether samples that cannot be read are replaced (by others of the batch) or labeled as padding.
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
        if isinstance(self.transform, SmallTransform) and self.split.small is not None:
            channels, height, width = self.split.small
            pixels = frame_images(stack_images(images, (width, height), "L" if channels == 1 else "RGB"))
            changes = None if self.transform.augment is None else self._changes(samples, self.transform)
            return self.transform(pixels, changes), labels
        transformed, transform = [], cast("Callable[[Image.Image], torch.Tensor]", self.transform)
        for sample, image in zip(samples, images, strict=True):
            with global_generators_seeded(derive_seed(self.seed, sample.epoch, 2, sample.number)):
                transformed.append(transform(image))
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

    def _changes(self, samples: list[Sample], transform: SmallTransform) -> Changes:
        """A row of random numbers per sample, looked up in tables that many samples share."""
        rows = [self._table(sample.epoch, sample.number, transform) for sample in samples]
        boxes = [row.boxes for row in rows if row.boxes is not None]  # of all samples, or of none
        return Changes(torch.stack([row.moves for row in rows]), torch.stack(boxes) if boxes else None)

    def _table(self, epoch: int, number: int, transform: SmallTransform) -> Changes:
        key = (epoch, number // _TABLE_ROWS)
        if key not in self._tables:
            while len(self._tables) > 3:
                self._tables.pop(next(iter(self._tables)))
            generator = torch.Generator().manual_seed(derive_seed(self.seed, *key, 7))
            self._tables[key] = transform.draw(_TABLE_ROWS, generator)
        row = number % _TABLE_ROWS
        table = self._tables[key]
        return Changes(table.moves[row], None if table.boxes is None else table.boxes[row])
