"""The loaders of a run."""

from __future__ import annotations

import itertools

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from timm_asap.data import Split, StreamLoader, StreamSplit, build_loader
from timm_asap.training.plan import Plan

# Adversarial training changes pixels: its loaders give them as they are, and the network normalises.
_PIXELS = {"mean": (0.0,), "std": (1.0,)}


def build_train_loader(plan: Plan, accelerator: Accelerator) -> DataLoader | StreamLoader:
    """Augmented batches of the training images, those of this process alone.

    A stream is shared among the processes by itself, anything else by accelerate, which splits each batch.
    """
    config = plan.config
    streams = isinstance(plan.dataset.train, StreamSplit)
    loader = build_loader(
        plan.dataset.train,
        plan.dataset,
        config.batch_size // accelerator.num_processes if streams else config.batch_size,
        training=True,
        augment=plan.augment,
        input_size=plan.train_size,
        seed=config.seed,
        num_workers=config.num_workers,
        interpolation=plan.interpolation,
        steps_per_epoch=config.steps_per_epoch,
        **_share(accelerator),
        **_normalisation(plan),
    )
    if streams:
        return loader
    return accelerator.prepare(loader)


def build_test_loader(
    plan: Plan, split: Split, accelerator: Accelerator | None = None, *, pixels: bool = False
) -> DataLoader | StreamLoader:
    """Batches of a split as the network is measured on it.

    Args:
        plan: What the run is.
        split: The validation or the test split.
        accelerator: The processes that share it; by default each has all of it.
        pixels: Do not normalise, whatever the run does.
    """
    processes = 1 if accelerator is None else accelerator.num_processes
    streams = isinstance(split, StreamSplit)
    loader = build_loader(
        split,
        plan.dataset,
        plan.config.batch_size // processes if streams else plan.config.batch_size,
        training=False,
        input_size=plan.input_size,
        seed=plan.config.seed,
        num_workers=plan.config.num_workers,
        interpolation=plan.interpolation,
        crop_pct=plan.crop_pct,
        **({} if accelerator is None else _share(accelerator)),
        **(_PIXELS if pixels else _normalisation(plan)),
    )
    return loader if streams or accelerator is None else accelerator.prepare(loader)


def watched_images(plan: Plan, accelerator: Accelerator) -> tuple[torch.Tensor, torch.Tensor]:
    """The first held-out pixels and labels, on the device: this process's share of `watch_images`."""
    wanted = plan.config.watch_images
    split = plan.dataset.test if plan.dataset.val is None else plan.dataset.val
    batches = -(-wanted // plan.config.batch_size)
    pairs = itertools.islice(build_test_loader(plan, split, pixels=True), batches)
    images, labels = (torch.cat(tensors)[:wanted] for tensors in zip(*pairs, strict=True))
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    return images[own].to(accelerator.device), labels[own].to(accelerator.device)


def _share(accelerator: Accelerator) -> dict[str, int]:
    """The part of a stream that is this process's."""
    return {"num_processes": accelerator.num_processes, "process_index": accelerator.process_index}


def _normalisation(plan: Plan) -> dict[str, tuple[float, ...]]:
    return {"mean": plan.mean, "std": plan.std} if plan.config.attack is None else _PIXELS
