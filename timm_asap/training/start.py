"""The start of a run, new or continued: everything the loop works with, and the folder to write to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.utils.data import DataLoader

from timm_asap.data import build_loader
from timm_asap.errors import UserError
from timm_asap.training.checkpoints import Position, load_checkpoint
from timm_asap.training.config import TrainConfig
from timm_asap.training.facts import run_facts
from timm_asap.training.plan import Plan, make_plan
from timm_asap.training.progress import ProgressDisplay
from timm_asap.training.recipe import to_yaml
from timm_asap.training.run_folder import RunFolder


@dataclass
class Run:
    """What every part of the loop works with."""

    plan: Plan
    folder: RunFolder
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    train_loader: DataLoader
    test_loader: DataLoader
    display: ProgressDisplay
    position: Position

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory order of images and weights."""
        return _memory_format(self.plan.config)


def start_run(config: TrainConfig) -> Run:
    """Put together what was asked for; the folder is written to only when all of it fits.

    Args:
        config: The run.

    Raises:
        UserError: If it cannot be run.
    """
    accelerator = _create_accelerator(config)
    set_seed(config.seed)
    plan = make_plan(config)
    folder = RunFolder(plan.config.run_folder)
    folder.check(resume=config.resume, overwrite=config.overwrite)
    accelerator.wait_for_everyone()  # every process has looked before one of them writes
    return _prepare(plan, folder, accelerator)


def _create_accelerator(config: TrainConfig) -> Accelerator:
    # --batch-size is that of an optimizer step: accelerate splits each batch over the processes
    loading = DataLoaderConfiguration(split_batches=True, non_blocking=True)
    precision = "no" if config.mixed_precision == "fp32" else config.mixed_precision
    # several processes without a GPU must be told so: accelerate 1.15 would run each as if it were alone
    cpu = not torch.accelerator.is_available()
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision=precision, dataloader_config=loading)
    except ValueError as error:  # a precision that the device does not have
        raise UserError(f"--mixed-precision {config.mixed_precision}: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("--mixed-precision fp16 needs a GPU: expected fp32 or bf16 on a CPU")
    if config.batch_size % accelerator.num_processes:
        raise UserError(
            f"--batch-size is shared by all processes: expected a multiple of {accelerator.num_processes}, "
            f"got {config.batch_size}"
        )
    return accelerator


def _prepare(plan: Plan, folder: RunFolder, accelerator: Accelerator) -> Run:
    """Loaders, optimizer and schedule, the state of the run that is continued, and the folder to write to."""
    config = plan.config
    train_loader, test_loader = (_build_loader(plan, training) for training in (True, False))
    model = plan.model.to(memory_format=_memory_format(config))
    optimizer = create_optimizer_v2(
        model, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
    )
    model, optimizer, train_loader, test_loader = accelerator.prepare(model, optimizer, train_loader, test_loader)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.sched,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=len(train_loader),
    )
    # each process draws its own dropout masks; a checkpoint holds the state of each
    set_seed(config.seed, device_specific=True)
    position = Position()
    if config.resume and folder.last_checkpoint.is_file():
        position = load_checkpoint(folder.last_checkpoint, accelerator, model, optimizer)
        scheduler.step_update(position.step)
    display = ProgressDisplay(
        config.epochs,
        steps_per_epoch=len(train_loader),
        batch_size=config.batch_size,
        first_epoch=position.epoch,
        silent=not accelerator.is_main_process,
    )
    if accelerator.is_main_process:
        facts = run_facts(plan, accelerator)
        if position.epoch == 0:
            folder.start(to_yaml(config), facts)
        else:
            folder.resume(to_yaml(config), facts, position.epoch)
            display.say(f"continuing {folder.path} after epoch {position.epoch}")
    return Run(
        plan,
        folder,
        accelerator,
        model,
        optimizer,
        scheduler,
        train_loader,
        test_loader,
        display,
        position,
    )


def _build_loader(plan: Plan, training: bool) -> DataLoader:
    return build_loader(
        plan.dataset.train if training else plan.dataset.test,
        plan.dataset,
        plan.config.batch_size,
        training=training,
        augment=plan.augment,
        input_size=plan.input_size,
        mean=plan.mean,
        std=plan.std,
        seed=plan.config.seed,
        num_workers=plan.config.num_workers,
        interpolation=plan.interpolation,
        crop_pct=plan.crop_pct,
    )


def _memory_format(config: TrainConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format
