"""Random numbers that depend on the image alone, not on who asks for them, in what order, or how many at a time.

Philox is a counter-based generator: its key selects one of 2^128 streams. Half the key is a hash of (seed, corruption,
severity), the other half the image's number in its split.

Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, name: str, severity: int, index: int) -> np.random.Generator:
    """The stream of one corrupted image.

    Args:
        seed: Any integer.
        name: The corruption.
        severity: 1 to 5.
        index: The image's number in its split, >= 0.
    """
    digest = hashlib.blake2b(f"{seed}/{name}/{severity}".encode(), digest_size=8).digest()
    key = np.array([int.from_bytes(digest, "little"), index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32, uniform in [-1, 1)."""
    return rng.random(shape, dtype=np.float32) * 2 - 1
