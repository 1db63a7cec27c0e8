"""Images that cannot be read: reported, or counted over all worker processes with one warning."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import torch

from timm_asap.data.images import ImageFileError
from timm_asap.data.splits import LazySplit, Split
from timm_asap.errors import UserError

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


def leave_out_unreadable(split: Split) -> Split:
    """The split without images that cannot be read, with one warning: for measuring, where none may stand in.

    Every large image is decoded once; small ones were, when they were loaded.

    Args:
        split: Not a stream.

    Raises:
        UserError: None of them can be read.
    """
    if not isinstance(split, LazySplit):
        return split
    with ThreadPoolExecutor() as threads:
        errors = list(threads.map(lambda index: _error_of(split, index), range(len(split))))
    found = [error for error in errors if error is not None]
    if not found:
        return split
    if len(found) == len(split):
        raise UserError(f"none of {len(split)} images can be read; the first: {found[0]}")
    warnings.warn(f"left out {len(found)} of {len(split)} images; the first: {found[0]}", stacklevel=2)
    return split.select(torch.tensor([index for index, error in enumerate(errors) if error is None]))


def _error_of(split: LazySplit, index: int) -> ImageFileError | None:
    try:
        split.decode(index)
    except ImageFileError as error:
        return error
    return None
