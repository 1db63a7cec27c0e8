"""Samples set aside: to measure on where a data set has no test split, and to choose by, which no test split is for."""

from __future__ import annotations

from dataclasses import replace

import torch

from timm_asap.data.splits import ImageDataset, LazySplit, Split, TensorSplit, channel_statistics
from timm_asap.errors import UserError


def hold_out(split: TensorSplit | LazySplit, share: float, seed: int) -> tuple[Split, Split]:
    """Divides a split in two, with each class in its proportion and the samples in their order.

    Args:
        split: What to divide.
        share: Of the samples, in the second part; between 0 and 1.
        seed: Which of them.

    Returns:
        The remaining samples, and those held out.

    Raises:
        UserError: There are too few samples to have every class on both sides.
    """
    # scikit-learn takes two seconds to import: only data sets that are divided need it
    from sklearn.model_selection import train_test_split

    indices = torch.arange(len(split))
    try:
        parts = train_test_split(indices.numpy(), test_size=share, random_state=seed, stratify=split.labels.numpy())
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{100 * share:.3g} % of the {len(split)} training samples cannot be held out with every class on both "
            f"sides ({reason}): add samples"
        ) from error
    kept, held_out = (torch.from_numpy(part).sort().values for part in parts)
    return split.select(kept), split.select(held_out)


def hold_out_fifth(split: TensorSplit | LazySplit, seed: int) -> tuple[Split, Split, str]:
    """Splits off a fifth of the samples to measure on, with each class in its proportion; of very few, one of each.

    Args:
        split: What to divide.
        seed: Which fifth.

    Returns:
        The remaining samples, those held out, and their name for `ImageDataset.test_name`.

    Raises:
        UserError: There are too few samples to have every class on both sides.
    """
    # nobody asked for a fifth: of a few images it is one of each class
    classes = len(split.labels.unique())
    share = max(0.2, classes / max(1, len(split)))
    try:
        kept, held_out = hold_out(split, share, seed)
    except UserError as error:
        raise UserError(f"no test split, and {error}, or a test split") from error
    name = "fifth" if share == 0.2 else f"{len(held_out)} images"
    return kept, held_out, f"held-out {name}, seed {seed}"


def hold_out_validation(dataset: ImageDataset, share: float, seed: int) -> ImageDataset:
    """The data set with a share of its training samples moved to `val`, and the test samples as they were.

    Mean and standard deviation of small images are measured again, on what is left to train on.

    Args:
        dataset: What to divide.
        share: Of the training samples; between 0 and 1.
        seed: Which of them.

    Raises:
        UserError: There are too few samples to have every class on both sides.
    """
    try:
        train, val = hold_out(dataset.train, share, seed)
    except UserError as error:
        raise UserError(f"--val-share {share:g}: {error}, or leave it out") from error
    mean, std = dataset.mean, dataset.std
    if isinstance(train, TensorSplit):
        mean, std = channel_statistics(train.images)
    name = f"held-out {100 * share:.3g} % of train, seed {seed}"
    return replace(dataset, train=train, val=val, val_name=name, mean=mean, std=std)
