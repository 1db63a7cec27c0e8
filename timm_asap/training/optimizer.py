"""timm's optimizers and schedules, by name."""

from __future__ import annotations

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from timm_asap.errors import UserError
from timm_asap.training.config import TrainConfig


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
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            warmup_lr=config.lr / 100,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
            **config.sched_kwargs,
        )
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--sched {config.sched} with --sched-kwargs {config.sched_kwargs}: {reason}") from error
    return scheduler
