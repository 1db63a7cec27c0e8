"""Memory is estimated before it is taken: a configuration that asks for terabytes gets a line, not the machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from timm_asap.errors import UserError

__all__ = ["available_memory", "check_memory", "image_memory"]

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
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit in ("bytes", "kB", "MB") else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
