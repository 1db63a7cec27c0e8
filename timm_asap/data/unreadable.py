"""Images that cannot be read: reported, or counted over all worker processes with one warning."""

from __future__ import annotations

import warnings

import torch

from timm_asap.data.images import ImageFileError

PADDING_LABEL = -1
"""Label of samples that are not to be counted: they fill up a batch, or stand for images that cannot be read."""


class UnreadableImages:
    """Counts images that cannot be read.

    The count lies in shared memory: that of the worker processes is seen in the training process. Each fetch of such
    an image counts.

    Args:
        skip: Whether to go on; otherwise the first one is an error.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self._count = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def count(self) -> int:
        """How many came so far; two processes that count at the same instant may count one."""
        return int(self._count)

    def note(self, error: ImageFileError) -> None:
        """Counts one, with a warning if it is the first.

        Raises:
            ImageFileError: Skipping was not asked for.
        """
        if not self.skip:
            raise error
        self._count += 1
        if self.count == 1:
            warnings.warn(f"skipping images that cannot be read; the first: {error}", stacklevel=2)
