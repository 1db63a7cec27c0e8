"""All that a run needs before its first step, loaders included, tried out before anything is written."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import list_optimizers
from torch import nn
from torch.utils.data import DataLoader

from timm_asap import data
from timm_asap._types import pretrained_cfg_of
from timm_asap.data import Split, StreamLoader, StreamSplit, build_loader
from timm_asap.data.config import PixelConfig
from timm_asap.data.folder_tree import one_line
from timm_asap.errors import UserError, unknown_name
from timm_asap.training.config import TrainConfig, to_yaml
from timm_asap.training.settle import settle_data, settle_flags, settle_parts, settle_processes, settle_steps
from timm_asap.training.setup import (
    Channels,
    check_model_names,
    create_network,
    create_teacher,
    pixels_of_weights,
    takes_any_size,
    try_out,
)


@dataclass(frozen=True, eq=False)
class Plan:
    """A configuration with every default settled, and the data and the models that it names.

    Args:
        config: What was asked for; `crop_padding`, `flip` and `output` are settled.
        dataset: The data.
        model: The network, on the CPU, with its first weights.
        pixels: How images are prepared for the network in testing; small images are not cropped.
        train_size: (C, H, W) that the network is given in training.
        augment: The random changes to the training images.
        teacher: The network that it learns from, or None.
        labeled: Whether the images have labels; without, the teacher's predictions count as right.
        lr_scales: By name of a parameter, its learning rate as a multiple of the run's; None: 1 for all.
    """

    config: TrainConfig
    dataset: data.ImageDataset
    model: nn.Module
    pixels: PixelConfig
    train_size: tuple[int, int, int] | None = None
    augment: data.AugmentConfig | None = None
    teacher: nn.Module | None = None
    labeled: bool = True
    lr_scales: dict[str, float] | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())


def make_plan(config: TrainConfig, processes: int = 1) -> Plan:
    """Load the data, build the model, and see that one fits the other.

    The first weights come from torch's global generator: seed it before.

    Args:
        config: What was asked for; defaults that do not fit are adapted, and `notes` of the plan's configuration say
            so.
        processes: How many train together.

    Raises:
        UserError: If the data, the model or a keyword of it is unknown, or they do not fit.
    """
    config = settle_processes(settle_flags(config), processes)
    known = [str(name) for name in list_optimizers()]  # names alone, as descriptions were not asked for
    if config.opt not in known:
        raise UserError(unknown_name("optimizer", config.opt, known))
    check_model_names(config)
    dataset = _load_data(config)
    images = count_images(dataset.train)
    is_small, has_val = isinstance(dataset.test, data.TensorSplit), dataset.val is not None
    config = settle_data(config, images, is_small, has_val, processes)
    dataset = replace(dataset, image_size=_square(dataset.image_size, config.image_size))
    augment = _augment(config)
    config = config.changed(
        output=str(config.run_folder), crop_padding=augment.crop_padding, flip=augment.horizontal_flip
    )
    model = create_network(config, dataset)
    mean, std = dataset.mean, dataset.std
    if config.pretrained:
        size, mean, std = pixels_of_weights(model, dataset.image_size[0])
        config, dataset = _as_the_weights(config, dataset, size, mean, std)
    try_out(model, config.model, dataset)
    train_size = _square(dataset.image_size, config.train_image_size)
    config = settle_parts(config, model, train_size, images, processes)
    if images is not None and not isinstance(dataset.train, data.StreamSplit):
        config = settle_steps(config, images // config.batch_size)
    own = pretrained_cfg_of(model)
    return Plan(
        config=config,
        dataset=dataset,
        model=model,
        teacher=None if config.teacher is None else create_teacher(config, dataset),
        pixels=PixelConfig(
            input_size=dataset.image_size,
            mean=mean,
            std=std,
            interpolation="bicubic" if is_small else own["interpolation"],
            crop_pct=1.0 if is_small else config.crop_pct or own["crop_pct"],
        ),
        train_size=train_size,
        augment=augment,
    )


def _as_the_weights(
    config: TrainConfig, dataset: data.ImageDataset, size: tuple[int, int, int], mean: Channels, std: Channels
) -> tuple[TrainConfig, data.ImageDataset]:
    """Images as the pretrained weights know them, and a line where that is not what the data would have had."""
    resized = takes_any_size(dataset) and config.image_size is None and size != dataset.image_size
    normalized = (tuple(mean), tuple(std)) != (tuple(dataset.mean), tuple(dataset.std))
    if resized:
        dataset = replace(dataset, image_size=size)
    if not resized and not normalized:
        return config, dataset
    _, height, width = dataset.image_size
    numbers = f"mean {_numbers(mean)}, std {_numbers(std)}"
    sized = f"images of {height} x {width} pixels, " if takes_any_size(dataset) else ""
    how = " (--image-size)" if resized else ""
    return config.changed(f"{sized}{numbers}: as the weights of {config.model} were trained{how}"), dataset


def _numbers(values: Channels) -> str:
    shown = [f"{value:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)


def count_images(split: data.Split) -> int | None:
    """The number of images of a split; None for a stream that does not say."""
    return split.len_or_none if isinstance(split, data.StreamSplit) else len(split)


def describe_data(dataset: data.ImageDataset) -> list[str]:
    """What is trained and measured on, and what was left out, in lines."""
    parts = {"training": dataset.train, "validation": dataset.val, "test": dataset.test}
    counts = [f"{_count(split)} {name} images" for name, split in parts.items() if split is not None]
    classes = f"{dataset.num_classes} classes ({_shorten(dataset.label_names, 5)})"
    return [f"{', '.join(counts)} ({dataset.test_name}), {classes}: {dataset.source}", *dataset.notes]


def describe(plan: Plan) -> str:
    """The resolved configuration, as YAML, and a summary of the model and the data."""
    channels, height, width = plan.pixels.size
    dataset = plan.dataset
    rows = {
        "model": f"{plan.config.model}, {plan.parameters:,} parameters",
        "input": f"{channels} x {height} x {width} (channels, height, width)",
        "classes": f"{dataset.num_classes}: {_shorten(dataset.label_names)}",
        "data": f"{dataset.source}; {_count(dataset.train)} training images, "
        f"{_count(dataset.test)} test images ({dataset.test_name})",
    }
    if dataset.val is not None:
        rows["chosen by"] = f"{_count(dataset.val)} validation images ({dataset.val_name})"
    lines = [f"# {name:10}{text}" for name, text in rows.items()]
    notes = [*(f"# {note}" for note in dataset.notes), *(f"# adapted   {note}" for note in plan.config.notes)]
    return to_yaml(plan.config) + "\n" + "\n".join([*lines, *notes])


def _load_data(config: TrainConfig) -> data.ImageDataset:
    # the fifth that is held out of a data set without a test split stays the same whatever --seed is: the tests
    # of different runs compare, and no later evaluation meets an image that was trained on
    return config.load_data(
        val_share=config.val_share, streaming=config.streaming, shuffle_buffer=config.shuffle_buffer, seed=0
    )


def _square(size: tuple[int, int, int], side: int | None) -> tuple[int, int, int]:
    return size if side is None else (size[0], side, side)


def _augment(config: TrainConfig) -> data.AugmentConfig:
    """What suits the data set, but for what was asked for."""
    usual = data.default_augment(config.dataset)
    asked = {
        "crop_padding": config.crop_padding,
        "horizontal_flip": config.flip,
        "crop_scale": None if config.crop_scale is None else (config.crop_scale, 1.0),
        "color_jitter": config.color_jitter,
        "auto_augment": None if config.auto_augment == "3a" else config.auto_augment,
        "three_augment": config.auto_augment == "3a",
        "re_prob": config.random_erasing,
        "repeats": config.repeated_augment,
    }
    return replace(usual, **{name: value for name, value in asked.items() if value is not None})


def _count(split: data.Split) -> str:
    count = count_images(split)
    return "streamed" if count is None else f"{count:,}"


def _shorten(names: tuple[str, ...], limit: int = 10) -> str:
    return ", ".join(map(one_line, names[:limit])) + (", ..." if len(names) > limit else "")


# Adversarial training changes pixels: its loaders give them as they are, and the network normalizes.


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
        pixels=replace(_network_pixels(plan), input_size=plan.train_size),
        seed=config.seed,
        num_workers=config.num_workers,
        steps_per_epoch=config.steps_per_epoch,
        **_share(accelerator),
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
        pixels: Do not normalize, whatever the run does.
    """
    processes = 1 if accelerator is None else accelerator.num_processes
    shares: dict[str, Any] = {} if accelerator is None else _share(accelerator)
    streams = isinstance(split, StreamSplit)
    loader = build_loader(
        split,
        plan.dataset,
        plan.config.batch_size // processes if streams else plan.config.batch_size,
        training=False,
        pixels=plan.pixels.without_normalization() if pixels else _network_pixels(plan),
        seed=plan.config.seed,
        num_workers=plan.config.num_workers,
        **shares,
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


def _share(accelerator: Accelerator) -> dict[str, Any]:
    """The part of a stream that is this process's."""
    return {"num_processes": accelerator.num_processes, "process_index": accelerator.process_index}


def _network_pixels(plan: Plan) -> PixelConfig:
    """As the network takes them; an attacked one normalizes by itself."""
    return plan.pixels if plan.config.attack is None else plan.pixels.without_normalization()
