"""Batches of a stream. The rows are read here, in order; worker processes decode and transform them.

torch's loader would have each worker read a part of the stream, and none could say where a run stopped. So the stream
takes the place of the sampler: what is sent to a worker is no list of numbers but the undecoded images themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from timm_asap.data.small_images import SmallTransform
from timm_asap.data.splits import PADDING_LABEL, StreamSplit
from timm_asap.data.stream_records import Row, Sample, Shards, ShuffledRows, StreamImages
from timm_asap.errors import UserError


class ShuffledBatches:
    """Batches of shuffled samples, each with the state after it.

    Args:
        split: The stream.
        batch_size: Samples per batch and process.
        steps: Batches per epoch.
        seed: Seed of the run.
        process_index: Of this process.
        num_processes: Of all.
    """

    def __init__(
        self, split: StreamSplit, batch_size: int, steps: int, seed: int, process_index: int, num_processes: int
    ) -> None:
        self.split, self.batch_size, self.steps, self.seed = split, batch_size, steps, seed
        self.process_index, self.num_processes = process_index, num_processes

    def batches(self, epoch: int, step: int, rows: dict | None) -> Iterator[tuple[list[Sample], dict]]:
        """From a step of an epoch on, where `rows` is the state of `ShuffledRows` there."""
        source = ShuffledRows(self.split, self.seed, epoch, self.process_index, self.num_processes, rows)
        given = iter(source)
        for number in range(step, self.steps):
            first = number * self.batch_size
            batch = [
                Sample(record, label, epoch, (first + place) * self.num_processes + self.process_index)
                for place, (record, label) in enumerate(islice(given, self.batch_size))
            ]
            yield batch, source.state_dict()


class OrderedBatches:
    """Batches of the samples in their order, the same number of them and as large on every process.

    All processes read all rows and each keeps its part of every batch, undecoded ones costing little. What is missing
    from the last batches is filled up with a sample labeled `PADDING_LABEL`.

    Args:
        split: The stream.
        batch_size: Samples per batch and process.
        process_index: Of this process.
        num_processes: Of all.
    """

    steps = None

    def __init__(self, split: StreamSplit, batch_size: int, process_index: int, num_processes: int) -> None:
        self.split, self.batch_size = split, batch_size
        self.process_index, self.num_processes = process_index, num_processes

    def batches(self, epoch: int, step: int, rows: dict | None) -> Iterator[tuple[list[Sample], None]]:
        """All batches; a test pass is not resumed."""
        given = iter(Shards(self.split, list(range(self.split.dataset.num_shards))))
        while whole := list(islice(given, self.batch_size * self.num_processes)):
            yield [Sample(record, label, 0, 0) for record, label in self._part(whole)], None

    def _part(self, whole: list[Row]) -> list[Row]:
        each = -(-len(whole) // self.num_processes)
        part = whole[self.process_index * each :][:each]
        return part + [(whole[0][0], PADDING_LABEL)] * (each - len(part))


class StreamLoader:
    """Iterates like a `DataLoader` over the batches of one process.

    It is sharded already: `Accelerator.prepare` must not see it, and its batches are to be moved to the device.

    Args:
        source: The batches, undecoded.
        images: What decodes and transforms them.
        num_workers: Processes that do; 0 for this one.
    """

    def __init__(self, source: ShuffledBatches | OrderedBatches, images: StreamImages, num_workers: int) -> None:
        self.source = source
        self.dataset = images
        self.epoch = 0
        self._step = 0
        self._rows: dict | None = None
        self._resumes = False
        self._sampler = _BatchSampler()
        self._loader = DataLoader(
            images,
            batch_sampler=self._sampler,
            collate_fn=_already_batched,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(images.seed),
        )

    @property
    def batch_size(self) -> int:
        """Samples per batch and process."""
        return self.source.batch_size

    @property
    def len_or_none(self) -> int | None:
        """Batches per epoch and process; None where only reading the stream would tell."""
        if self.source.steps is None and self.source.split.len_or_none is not None:
            return -(-self.source.split.len_or_none // (self.batch_size * self.source.num_processes))
        return self.source.steps

    def __len__(self) -> int:
        if self.len_or_none is None:
            raise TypeError("the length of this stream is not known")
        return self.len_or_none

    def set_epoch(self, epoch: int) -> None:
        """Moves to an epoch; in the epoch of a state that was loaded, the next pass goes on from that state."""
        if epoch != self.epoch:
            self.epoch, self._step, self._rows, self._resumes = epoch, 0, None, False

    def state_dict(self) -> dict[str, Any]:
        """Where the batch after the last one given is, on this process: plain numbers, texts and dicts (JSON)."""
        return {
            "epoch": self.epoch,
            "step": self._step,
            "batch_size": self.batch_size,
            "num_processes": self.source.num_processes,
            "rows": self._rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next pass go on where another one stopped.

        Args:
            state: What `state_dict` gave on the process of the same index.

        Raises:
            UserError: It is of another batch size or number of processes.
        """
        for key, came, flag in (
            ("batch_size", self.batch_size, "--batch-size"),
            ("num_processes", self.source.num_processes, "number of processes"),
        ):
            if state[key] != came:
                what = "images per process" if key == "batch_size" else "processes"
                raise UserError(
                    f"a stream goes on only with the same {flag}: it stopped with {state[key]} {what}, now {came}"
                )
        self.epoch, self._step, self._rows = state["epoch"], state["step"], state["rows"]
        self._resumes = True

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if not self._resumes:
            self._step, self._rows = 0, None
        self._resumes = False
        states = self._sampler.begin(self.source.batches(self.epoch, self._step, self._rows))
        for batch in self._loader:
            self._step, self._rows = self._step + 1, states.popleft()
            yield batch


def build_stream_loader(
    split: StreamSplit,
    transform: SmallTransform | Callable,
    batch_size: int,
    *,
    training: bool,
    seed: int,
    num_workers: int,
    steps_per_epoch: int | None,
    num_processes: int,
    process_index: int,
) -> StreamLoader:
    """A loader of one process's batches of a stream.

    Args:
        split: The stream.
        transform: As for `StreamImages`.
        batch_size: Samples per batch and process.
        training: Whether to shuffle, without end; otherwise each sample comes once, in order.
        seed: Seed of the run.
        num_workers: Processes that decode and transform.
        steps_per_epoch: Batches per epoch in training; by default a pass, if the length is known.
        num_processes: Of all.
        process_index: Of this process.

    Raises:
        UserError: The length is needed and not known, or a number is impossible.
    """
    if not 0 <= process_index < num_processes:
        raise UserError(f"expected process_index from 0 to {num_processes - 1}, got {process_index}")
    images = StreamImages(split, transform, training, seed)
    if not training:
        return StreamLoader(OrderedBatches(split, batch_size, process_index, num_processes), images, num_workers)
    if steps_per_epoch is None:
        if split.len_or_none is None:
            raise UserError(f"the length of {split.source} is not known: give --steps-per-epoch")
        steps_per_epoch = max(1, split.len_or_none // (batch_size * num_processes))
    if steps_per_epoch < 1:
        raise UserError(f"--steps-per-epoch is a number from 1 up, got {steps_per_epoch}")
    source = ShuffledBatches(split, batch_size, steps_per_epoch, seed, process_index, num_processes)
    return StreamLoader(source, images, num_workers)


class _BatchSampler:
    """Hands batches to torch's loader, which asks for some ahead, and keeps the state after each until it is given."""

    def __init__(self) -> None:
        self._source: Iterator = iter(())
        self._states: deque = deque()

    def begin(self, source: Iterator[tuple[list[Sample], dict | None]]) -> deque:
        """A new pass; returns where its states will appear."""
        self._source, self._states = source, deque()
        return self._states

    def __iter__(self) -> Iterator[list[Sample]]:
        states = self._states
        for batch, state in self._source:
            states.append(state)
            yield batch


def _already_batched(batch: Any) -> Any:
    return batch
