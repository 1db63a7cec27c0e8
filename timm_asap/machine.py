"""What the machine allows: threads of a CPU, measured, and memory, estimated.

PyTorch takes a thread per core. The threads of a small network wait for each other at every layer; where other programs
hold a core, all of them wait for the one that has none. On two cores with ten other programs, a training step of
resnet20_lowres_asap took 0.14 s with one thread and 0.8 to 1.9 s with two, one of resnet18_asap 2.5 and 7.5 s.

Memory is estimated before it is taken: a configuration that asks for terabytes gets a line, not the machine.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.errors import UserError

__all__ = [
    "ThreadChoice",
    "available_memory",
    "check_memory",
    "choose_threads",
    "cores",
    "forward_pass",
    "image_memory",
    "set_by_user",
    "thread_count",
    "training_step",
]


_BY_THE_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

# A trial of this many seconds on one thread tells threads apart, and is short beside any run.
_TRIAL_S = 0.15
_REPEATS = 3
# More threads have to bring at least this much.
_GAIN = 0.9


@dataclass(frozen=True)
class ThreadChoice:
    """How many threads, and why.

    Args:
        threads: Of this process.
        cores: That it may run on.
        seconds: Of the same work, by the number of threads that it was tried with.
    """

    threads: int
    cores: int
    seconds: dict[int, float]

    def __str__(self) -> str:
        others = [count for count in self.seconds if count != self.threads]
        text = f"{self.threads} CPU {'thread' if self.threads == 1 else 'threads'} of {self.cores}"
        if others:
            nearest = min(others, key=lambda count: self.seconds[count])
            text += f": measured {self.seconds[nearest] / self.seconds[self.threads]:.1f} times as fast as {nearest}"
        return f"{text} (OMP_NUM_THREADS sets another number)"


def cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_by_user() -> bool:
    """Whether the environment says how many threads there are, as torchrun's does."""
    return any(os.environ.get(name) for name in _BY_THE_USER)


def choose_threads(work: Callable[[int], object], most: int, count: int | None = None) -> ThreadChoice:
    """Try 1, 2, 4, ... threads as long as more of them are faster, and leave PyTorch with the best number.

    Args:
        work: Computes so many images.
        most: Images that it takes at most.
        count: Cores; by default those of the process.
    """
    count = cores() if count is None else count
    torch.set_num_threads(1)
    images = min(2, most)
    work(images)  # the first call allocates
    while images < most and _seconds(work, images, 1) < _TRIAL_S:
        images = min(2 * images, most)
    seconds: dict[int, float] = {}
    best = 1
    for threads in dict.fromkeys([*(2**k for k in range(count.bit_length()) if 2**k < count), count]):
        torch.set_num_threads(threads)
        seconds[threads] = _seconds(work, images, _REPEATS)
        if threads > 1 and seconds[threads] > _GAIN * seconds[best]:
            break
        best = threads
    torch.set_num_threads(best)
    return ThreadChoice(best, count, seconds)


@contextmanager
def thread_count(threads: int | None = None) -> Iterator[None]:
    """Put PyTorch's number of threads back as it was; within, it is `threads` if that is given."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def training_step(model: nn.Module, size: tuple[int, int, int]) -> Callable[[int], None]:
    """A training step on so many images of zeros, with a copy of the network and random numbers of its own.

    Args:
        model: A classifier, on the CPU.
        size: (C, H, W) of an image.
    """
    model = copy.deepcopy(model).train()

    def step(images: int) -> None:
        with torch.random.fork_rng(devices=[]):
            scores = model(torch.zeros(images, *size))
            F.cross_entropy(scores, torch.zeros(images, dtype=torch.long)).backward()

    return step


def forward_pass(model: nn.Module, size: tuple[int, int, int]) -> Callable[[int], None]:
    """A forward pass over so many images of zeros.

    Args:
        model: On the CPU, in eval mode.
        size: (C, H, W) of an image.
    """

    @torch.no_grad()
    def run(images: int) -> None:
        model(torch.zeros(images, *size))

    return run


def _seconds(work: Callable[[int], object], images: int, repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work(images)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


# Of this process's control group (v2, v1); a container has less than its machine.
_GROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
)
# Pages of files that were read: they count as used, and are given up as soon as memory is wanted.
_CACHES = ("inactive_file", "active_file")
_FEATURES = 16  # maps of an image's size that a network keeps at a time: 64 channels at half the side


def check_memory(needed: int, what: str) -> None:
    """See that there is memory for something.

    Args:
        needed: Bytes.
        what: What needs them, the beginning of a sentence.

    Raises:
        UserError: If there is not as much; where the system does not say how much there is, nothing is refused.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise UserError(f"{what} needs about {_text(needed)} of memory, and {_text(free)} are free")


def image_memory(input_size: Sequence[int], batch_size: int = 1) -> int:
    """A lower bound of the bytes that a network takes for a batch of images.

    The pixels, the first maps, and the matrices of the alias-free layers, in float32 and built in float64.

    Args:
        input_size: (C, H, W).
        batch_size: How many images.
    """
    channels, height, width = input_size
    return 4 * batch_size * (channels + _FEATURES) * height * width + 12 * (height**2 + width**2)


def available_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not say."""
    found = [*_of_the_system(), *_of_the_group(), *_of_the_process()]
    return min(found, default=None)


def _of_the_system() -> list[int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return []


def _of_the_group() -> list[int]:
    for limit, used, stat, prefix in _FILES:
        try:
            left = int((_GROUPS / limit).read_text()) - int((_GROUPS / used).read_text())
        except (OSError, ValueError):  # none, or "max"
            continue
        return [max(left + _cached(_GROUPS / stat, prefix), 0)]
    return []


def _cached(stat: Path, prefix: str) -> int:
    """Bytes of pages of files that a control group holds; 0 where it does not say."""
    try:
        pairs = [line.split() for line in stat.read_text(encoding="ascii").splitlines()]
        return sum(int(value) for name, value in pairs if name in {prefix + cache for cache in _CACHES})
    except (OSError, ValueError):
        return 0


def _of_the_process() -> list[int]:
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError, IndexError):
        return []
    return [] if soft == resource.RLIM_INFINITY else [max(soft - used, 0)]


def _text(size: int) -> str:
    amount: float = size
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{amount:,.0f} {unit}" if unit in ("bytes", "kB", "MB") else f"{amount:,.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")
