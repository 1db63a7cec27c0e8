"""Settings that do not fit each other, the data or the machine: defaults are adapted, what was typed is refused.

Each function returns the configuration that fits; the lines for the user are its `notes`.
"""

from __future__ import annotations

import copy
import math
import os
from typing import TYPE_CHECKING, Any

from timm_asap.command_line import flag
from timm_asap.errors import UserError
from timm_asap.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

# Share of a run that warms up where the usual number of epochs does not fit into it: that of the recipe for the digits.
_WARM_SHARE = 1 / 4

# What a recipe says of the data set that it is for.
_OF_THE_DATA = (
    *("data_dir", "image_key", "label_key", "train_split", "test_split", "num_classes", "label_names"),
    *("streaming", "steps_per_epoch"),
)

_WHAT_THE_DATA_ARE = ("dataset", "data_dir", "train_split", "val_share")


def settle_flags(config: TrainConfig) -> TrainConfig:
    """Settings that do not fit each other.

    Raises:
        UserError: If all of them were asked for.
    """
    if config.warmup_epochs > config.epochs:
        if not config.given.may_adapt("warmup_epochs", "epochs"):
            raise UserError(
                f"--warmup-epochs is part of --epochs: expected at most {config.epochs}, got {config.warmup_epochs:g}"
            )
        warm = config.epochs * _WARM_SHARE
        config = config.changed(
            f"warm-up of {warm:g} epochs instead of {config.warmup_epochs:g}: the run has only "
            f"{_count(config.epochs, 'epoch')} (--warmup-epochs)",
            warmup_epochs=warm,
        )
    for holds, message, alternatives in _excluding(config):
        if holds:
            config = _leave_out(config, message, alternatives)
    if config.batch_size % config.accumulate:
        config = _divisible(config, config.accumulate, 1)
    return config


def without_other_data(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """What a recipe says of its own data set left out, where a flag names another one.

    Args:
        config: The run.
        recipe: The recipe alone.
    """
    if "dataset" not in config.given.flags or config.dataset == recipe.dataset:
        return config
    usual = TrainConfig()
    names = [name for name in _OF_THE_DATA if getattr(config, name) != getattr(usual, name)]
    changes = {name: getattr(usual, name) for name in names if config.given.may_adapt(name, "dataset")}
    if not changes:
        return config
    told = ", ".join(map(flag, changes))
    return config.changed(f"{told} of the recipe left out: it is for {recipe.dataset}", **changes)


def _excluding(config: TrainConfig) -> list[tuple[bool, str, tuple[dict[str, Any], ...]]]:
    """Combinations that no run can have: whether one is there, why not, and what to leave out, either of two."""
    attacked = config.adversarial is not None
    no_mixing = {"mixup": 0.0, "cutmix": 0.0}
    not_adversarial = {"adversarial": None, "eps": None}
    plain = ":" not in config.model and not config.model.split(".")[0].endswith("_asap")  # without timm: help is quick
    return [
        (
            config.bce_threshold is not None and config.loss != "bce",
            "--bce-threshold is for --loss bce: add it, or leave the threshold out",
            ({"bce_threshold": None},),
        ),
        (
            config.mixes and attacked,
            "--mixup and --cutmix blend labels, --adversarial attacks one label: leave one of them out",
            (no_mixing, not_adversarial),
        ),
        (
            config.random_erasing > 0 and attacked,
            "--random-erasing leaves the pixel range that --adversarial keeps to: leave one of them out",
            ({"random_erasing": 0.0}, not_adversarial),
        ),
        (
            config.teacher is not None and attacked,
            "--teacher and --adversarial both replace the loss: leave one of them out",
            ({"teacher": None}, not_adversarial),
        ),
        (
            config.accumulate > 1 and config.adversarial == "free",
            "--accumulate splits a step, --adversarial free replays it: leave one of them out",
            ({"accumulate": 1}, not_adversarial),
        ),
        (
            config.loss == "bce" and attacked,
            "--loss bce and --adversarial: attacks climb the cross-entropy; leave one of them out",
            ({"loss": "ce", "bce_threshold": None}, not_adversarial),
        ),
        (
            config.repeated_augment > 1 and config.streaming,
            "--repeated-augment needs images at random: leave --streaming out",
            ({"repeated_augment": 1},),
        ),
        (
            config.val_share > 0 and config.streaming,
            "--val-share holds images out of a data set that is on the disk: leave --streaming out",
            ({"val_share": 0.0},),
        ),
        (
            plain and bool(config.asap_kwargs),
            "",  # the network's own check says which model has them
            (dict.fromkeys(config.asap_kwargs),),
        ),
    ]


def _leave_out(config: TrainConfig, message: str, alternatives: tuple[dict[str, Any], ...]) -> TrainConfig:
    """Take the first alternative that changes nothing that was asked for."""
    for changes in alternatives:
        changed = {name: value for name, value in changes.items() if getattr(config, name) != value}
        others = config.given.flags - set(changes)
        if changed and all(config.given.may_adapt(name, *others) for name in changed):
            told = ", ".join(flag(name) for name in changed)
            return config.changed(f"{told} of the recipe left out: it does not go with the flags", **changes)
    if message:
        raise UserError(message)
    return config


def settle_machine(config: TrainConfig, on_cpu: bool) -> TrainConfig:
    """Settings that need a GPU.

    Raises:
        UserError: If they were asked for, and there is none.
    """
    if on_cpu and config.mixed_precision == "fp16":
        if not config.given.may_adapt("mixed_precision"):
            raise UserError("--mixed-precision fp16 needs a GPU: expected fp32 or bf16 on a CPU")
        config = config.changed("fp32 instead of fp16, which needs a GPU", mixed_precision="fp32")
    if on_cpu and config.sync_bn:
        if not config.given.may_adapt("sync_bn"):
            raise UserError("--sync-bn needs GPUs: PyTorch has no such layer for CPUs; leave it out")
        config = config.changed("no --sync-bn, which needs GPUs", sync_bn=False)
    return config


def settle_processes(config: TrainConfig, processes: int) -> TrainConfig:
    """A batch that the processes can share, and no more workers than there are cores.

    Args:
        config: The run.
        processes: How many train together.

    Raises:
        UserError: If a number that was asked for does not fit.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = max(1, cores // processes)
    if config.num_workers > each and config.given.may_adapt("num_workers"):
        config = config.changed(
            f"{_count(each, 'worker')} instead of {config.num_workers}: {_count(cores, 'core')} for "
            f"{_count(processes, 'process')}",
            num_workers=each,
        )
    if config.batch_size % (processes * config.accumulate):
        config = _divisible(config, processes * config.accumulate, processes)
    if config.mixes and (config.batch_size // processes) % 2:
        unit = math.lcm(2 * processes, processes * config.accumulate)
        if not config.given.may_adapt("batch_size", "mixup", "cutmix", "accumulate"):
            return _leave_out(
                config,
                "--mixup and --cutmix mix pairs: expected an even number of images per process, got "
                f"{config.batch_size // processes}; change --batch-size",
                ({"mixup": 0.0, "cutmix": 0.0},),
            )
        config = _with_batch(config, _multiple(config.batch_size, unit), "mixing takes pairs in each process")
    return config


def settle_data(config: TrainConfig, images: int | None, small: bool, has_val: bool, processes: int) -> TrainConfig:
    """What the data leave no room for.

    Args:
        config: The run.
        images: To train on; None where a stream does not say.
        small: Whether they are small, and taken at their own size.
        has_val: Whether there is a validation split.
        processes: How many train together.

    Raises:
        UserError: If it was asked for.
    """
    may_adapt = config.given.may_adapt
    if images is not None and config.batch_size > images:
        unit = processes * config.accumulate * (2 if config.mixes else 1)
        # a power of two with two steps in an epoch, or three
        size = _multiple(2 ** max(1, int(math.log2(max(2, images // 2)))), unit)
        may = may_adapt("batch_size", *_WHAT_THE_DATA_ARE, "accumulate")
        if may and size > images:
            raise UserError(
                f"the {images} training images are too few for a batch{_shared(config, processes)}: expected {size} or "
                "more"
            )
        if not may:
            raise UserError(f"--batch-size: expected at most the {images} training images, got {config.batch_size}")
        config = _with_batch(config, size, f"there are {images} training images")
    if config.early_stop is not None and not has_val:
        if not may_adapt("early_stop", *_WHAT_THE_DATA_ARE):
            raise UserError(
                f"--early-stop: data set {config.dataset} has no validation split, and the test split is for the end; "
                "add --val-share 0.1"
            )
        config = config.changed("no --early-stop: there is no validation split", early_stop=None)
    sizes = ("image_size", "train_image_size", "crop_pct")
    if small and (asked := [name for name in sizes if getattr(config, name) is not None]):
        if not all(may_adapt(name, *_WHAT_THE_DATA_ARE) for name in asked):
            raise UserError(
                f"--image-size, --train-image-size and --crop-pct are for large images: those of {config.dataset} are "
                "taken as they are; leave it out"
            )
        told = ", ".join(map(flag, asked))
        config = config.changed(f"no {told}: small images are taken as they are", **dict.fromkeys(asked))
    if small and config.auto_augment is not None and may_adapt("auto_augment", *_WHAT_THE_DATA_ARE):
        config = config.changed("no --auto-augment, which is for large images", auto_augment=None)
    return config


def settle_steps(config: TrainConfig, batches: int) -> TrainConfig:
    """An epoch that is no longer than a pass over the images.

    Raises:
        UserError: If it was asked for.
    """
    if config.steps_per_epoch is None or config.steps_per_epoch <= batches:
        return config
    if not config.given.may_adapt("steps_per_epoch", *_WHAT_THE_DATA_ARE, "batch_size"):
        raise UserError(
            f"--steps-per-epoch: expected at most the {batches} batches of a pass over the training images, got "
            f"{config.steps_per_epoch}"
        )
    return config.changed(f"epochs of {_count(batches, 'step')}: that is a pass over the images", steps_per_epoch=None)


def settle_parts(
    config: TrainConfig, model: nn.Module, size: tuple[int, int, int], images: int | None, processes: int
) -> TrainConfig:
    """More than one image at a time, where the network's BatchNorm needs more.

    Args:
        config: The run.
        model: The network, on the CPU; left as it is.
        size: (C, H, W) of a training image.
        images: To train on; None where a stream does not say.
        processes: How many train together.

    Raises:
        UserError: If the sizes were asked for.
    """
    parts = processes * config.accumulate
    if config.batch_size // parts > 1 or (config.sync_bn and processes > 1) or _takes_one(model, size):
        return config
    fits = images is None or 2 * parts <= images
    if fits and config.given.may_adapt("batch_size", "accumulate", *_WHAT_THE_DATA_ARE):
        return _with_batch(config, 2 * parts, "BatchNorm needs two images at a time")
    fewer = next((n for n in range(config.accumulate, 0, -1) if not config.batch_size % (2 * processes * n)), None)
    if fewer is not None and config.given.may_adapt("accumulate", "batch_size"):
        return config.changed(
            f"--accumulate {fewer} instead of {config.accumulate}: BatchNorm needs two images at a time",
            accumulate=fewer,
        )
    raise UserError(
        f"BatchNorm cannot train on one image of {size[1]} x {size[2]} pixels at a time, which --batch-size "
        f"{config.batch_size}{_shared(config, processes)} comes to: expected --batch-size {2 * parts} or more"
        + (f", or --accumulate {fewer} or less" if fewer is not None else "")
    )


def _takes_one(model: nn.Module, size: tuple[int, int, int]) -> bool:
    """Whether a network trains on a single image: where its maps shrink to a pixel, BatchNorm has one value."""
    import torch

    copied = copy.deepcopy(model).train()  # the statistics of the run's own stay as they are
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copied(torch.zeros(1, *size))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise
    return True


def _divisible(config: TrainConfig, parts: int, processes: int) -> TrainConfig:
    """A batch that divides into parts."""
    if config.given.may_adapt("batch_size", "accumulate"):
        return _with_batch(config, _multiple(config.batch_size, parts), f"it divides into {parts} parts")
    if config.accumulate > 1 and config.given.may_adapt("accumulate", "batch_size"):
        fitting = [n for n in range(config.accumulate, 0, -1) if not config.batch_size % (processes * n)]
        if fitting:
            return config.changed(
                f"--accumulate {fitting[0]} instead of {config.accumulate}, which divides the batch",
                accumulate=fitting[0],
            )
    if processes == 1:
        raise UserError(
            f"--accumulate divides the batch: expected a divisor of --batch-size {config.batch_size}, got "
            f"{config.accumulate}"
        )
    in_parts = f", each in {config.accumulate} parts of --accumulate" if config.accumulate > 1 else ""
    raise UserError(
        f"--batch-size is shared by all processes{in_parts}: expected a multiple of {parts}, got {config.batch_size}"
    )


def _with_batch(config: TrainConfig, size: int, why: str) -> TrainConfig:
    usual = config.usual("batch_size")
    return config.changed(f"batches of {size} images instead of {usual}: {why} (--batch-size)", batch_size=size)


def _multiple(number: int, unit: int) -> int:
    """The largest multiple that is not above a number, and at least one."""
    return max(unit, number - number % unit)


def _shared(config: TrainConfig, processes: int) -> str:
    words = [f"--accumulate {config.accumulate}"] if config.accumulate > 1 else []
    words += [f"{processes} processes"] if processes > 1 else []
    return f" with {' and '.join(words)}" if words else ""


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}{plural}"
