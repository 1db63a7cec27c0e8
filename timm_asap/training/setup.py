"""The network that a run trains and the one that teaches it, and timm's optimizers and schedules by name.

Each is built and tried out before anything is written.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import get_pretrained_cfg, is_model, split_model_name_tag
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from timm_asap._types import present, pretrained_cfg_of, undeclared
from timm_asap.command_line import flag
from timm_asap.data import ImageDataset, TensorSplit
from timm_asap.data.labels import choose_classes, match_labels
from timm_asap.errors import UserError, first_line
from timm_asap.training.config import TrainConfig
from timm_asap.zoo import check_model_name, create_model

Channels = tuple[float, ...]


def check_model_names(config: TrainConfig) -> None:
    """Find an unknown model or tag, and keywords of a twin for what is none, before the data are read.

    Raises:
        UserError: If there is one.
    """
    check_model_name(config.model, pretrained=config.pretrained)
    if config.teacher is not None:
        check_model_name(config.teacher, "teacher", pretrained=True)
    architecture = split_model_name_tag(config.model)[0]
    if ":" not in config.model and config.asap_kwargs and not architecture.endswith("_asap"):
        given = ", ".join(flag(name) for name in config.asap_kwargs)
        twin = f"{architecture}_asap"
        instead = f"use --model {twin}, or leave it out" if is_model(twin) else "leave it out"
        raise UserError(f"{given}: {architecture} is no alias-free model; {instead}")


def create_network(config: TrainConfig, dataset: ImageDataset) -> nn.Module:
    """The network to train, with as many classes and channels as the data have; `try_out` sees that it takes them.

    Args:
        config: Names it.
        dataset: What it is for.

    Raises:
        UserError: If it cannot be built.
    """
    if taken := {"num_classes", "in_chans"} & set(config.model_kwargs):
        raise UserError(f"the data set decides: leave {' and '.join(sorted(taken))} out of --model-kwargs")
    kwargs = {**config.asap_kwargs, **config.drop_kwargs, **config.model_kwargs}
    known = None if ":" in config.model else get_pretrained_cfg(config.model)
    own_size = config.pretrained and config.image_size is None and takes_any_size(dataset)
    if known is not None and known.fixed_input_size and not own_size:
        kwargs.setdefault("img_size", dataset.image_size[1])
    fitting = {"num_classes": dataset.num_classes, "in_chans": dataset.image_size[0]}
    model = create_model(config.model, pretrained=config.pretrained, **fitting, **kwargs)
    if config.grad_checkpointing:
        _checkpoint_gradients(model, config.model)
    return model.train()


def takes_any_size(dataset: ImageDataset) -> bool:
    """Whether the images are resized for the network: large ones, and not small ones, which keep their size."""
    return not isinstance(dataset.test, TensorSplit)


def pixels_of_weights(model: nn.Module, channels: int) -> tuple[tuple[int, int, int], Channels, Channels]:
    """What pretrained weights were trained on: size of an image, mean and standard deviation of a pixel.

    Where the images have another number of channels, timm repeats the first convolution's weights over them, or adds
    them up: each channel then has the mean of those that the weights know.

    Args:
        model: With its `pretrained_cfg`.
        channels: Of the images.
    """
    own = pretrained_cfg_of(model)
    mean, std = (
        tuple(own[key]) if len(own[key]) == channels else (sum(own[key]) / len(own[key]),) * channels
        for key in ("mean", "std")
    )
    _, height, width = own["input_size"]
    return (channels, height, width), mean, std


def try_out(model: nn.Module, name: str, dataset: ImageDataset) -> None:
    """One image of zeros through the network: some cannot take small images, and say so only there.

    Raises:
        UserError: If it does not take the images of the data set, or gives no scores of their classes.
    """
    _try_out(model, name, dataset, dataset.image_size[1:])
    model.train()


def create_teacher(config: TrainConfig, dataset: ImageDataset) -> nn.Module:
    """The trained network that a run learns from, in evaluation mode and without gradients.

    Args:
        config: Names it.
        dataset: What it must know.

    Raises:
        UserError: If it is not available, or knows other classes.
    """
    name = present(config.teacher, "teacher")
    teacher = create_model(name, kind="teacher", pretrained=True, in_chans=dataset.image_size[0])
    num_classes: int = undeclared(teacher).num_classes
    if num_classes != dataset.num_classes:
        raise UserError(
            f"--teacher {config.teacher} knows {num_classes} classes, --dataset {config.dataset} has "
            f"{dataset.num_classes}: choose a teacher that was trained on these classes"
        )
    _try_out(teacher, name, dataset, dataset.image_size[1:])
    names = pretrained_cfg_of(teacher).get("label_names")
    names = names if names and len(names) == num_classes else None
    try:
        classes = match_labels(dataset.label_names, names, num_classes, dataset.class_order)
    except UserError as error:
        raise UserError(f"--teacher {config.teacher} does not fit data set {config.dataset!r}: {error}") from error
    return choose_classes(teacher, classes, num_classes).eval().requires_grad_(False)


def _try_out(model: nn.Module, name: str, dataset: ImageDataset, size: tuple[int, int]) -> None:
    channels = dataset.image_size[0]
    try:
        with torch.no_grad():
            scores = model.eval()(torch.zeros(1, channels, *size))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(
            f"model {name} cannot take images of {size[0]} x {size[1]} pixels: {first_line(error)}; "
            "choose a model for this size, such as resnet20_lowres_asap for 32 x 32"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.shape != (1, dataset.num_classes):
        raise UserError(
            f"model {name} gives no scores for {dataset.num_classes} classes: "
            "leave out of --model-kwargs what makes it a feature extractor"
        )


def _checkpoint_gradients(model: nn.Module, name: str) -> None:
    try:
        undeclared(model).set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise UserError(f"--grad-checkpointing: model {name} does not have it; leave it out") from error


def build_optimizer(
    model: nn.Module, config: TrainConfig, lr_scales: dict[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimizer, with its groups of weight decay and layer decay.

    Args:
        model: The network.
        config: The optimizer and its settings.
        lr_scales: By name of a parameter, its learning rate as a multiple of `config.lr`; instead of other groups.

    Raises:
        UserError: If it does not take a keyword, or the model has no groups of layers.
    """
    network = getattr(model, "model", model) if config.layer_decay is not None else model  # PixelModel has no groups
    if lr_scales is not None:
        named = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
        network = [{"params": [p], "lr_scale": lr_scales[name]} for name, p in named]
    try:
        return create_optimizer_v2(
            network,
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **config.opt_kwargs,
        )
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--opt {config.opt} with --opt-kwargs {config.opt_kwargs} cannot be made: {reason}") from error


def build_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> Scheduler:
    """The schedule, set at every step; it is a function of the step alone.

    Raises:
        UserError: If it does not take a keyword.
    """
    warmup_epochs: Any = config.warmup_epochs  # timm declares whole ones, and takes any
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=config.epochs,
            warmup_epochs=warmup_epochs,
            warmup_lr=config.lr / 100,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
            **config.sched_kwargs,
        )
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--sched {config.sched} with --sched-kwargs {config.sched_kwargs}: {reason}") from error
    return present(scheduler, f"schedule {config.sched}")
