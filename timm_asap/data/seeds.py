"""Random numbers that depend on what they are for: the seed of the run, the epoch, the sample."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """One 32-bit seed out of several numbers, such that changing any of them changes everything drawn."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def global_generators_seeded(seed: int) -> Iterator[None]:
    """Seeds the global CPU generators and puts them back: the training loop draws from them, too.

    Args:
        seed: For Python's, NumPy's and PyTorch's.
    """
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
