"""What every part of the training loop works with."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator, DistributedType, skip_first_batches
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from timm_asap._interrupt import StopRequest
from timm_asap.adversarial import PixelModel
from timm_asap.data import StreamLoader, set_epoch
from timm_asap.training.config import TrainConfig
from timm_asap.training.objective import Objective
from timm_asap.training.plan import Plan
from timm_asap.training.progress import ProgressDisplay
from timm_asap.training.run_folder import RunFolder


@dataclass
class Position:
    """How far a run has come. The learning-rate schedule is a function of `step` and needs no state of its own."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Batches trained on in the epoch after those."""
    step: int = 0
    """Optimizer steps made."""
    best_accuracy: float = -1.0
    """Highest accuracy so far, in percent: of the validation split where there is one, or else of the test split."""
    best_epoch: int = 0
    """The epoch that it was reached in, counted from 1."""
    best_step: int = 0
    """The optimizer step after that epoch."""


@dataclass
class EpochSums:
    """What an epoch has come to so far, so that its record does not show that it was interrupted."""

    losses: torch.Tensor
    """Mean loss over the processes, one per batch of the epoch."""
    correct: int = 0
    """Images that were answered right, over all processes."""
    seconds: float = 0.0
    """Time spent in training."""


@dataclass
class Run:
    """What every part of the loop works with."""

    plan: Plan
    folder: RunFolder
    accelerator: Accelerator
    objective: Objective
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    train_loader: DataLoader | StreamLoader
    val_loader: DataLoader | StreamLoader | None
    test_loader: DataLoader | StreamLoader
    display: ProgressDisplay
    batches_per_epoch: int
    ema: ModelEmaV3 | None = None
    watched: tuple[torch.Tensor, torch.Tensor] | None = None
    """Held-out pixels and labels that this process attacks after each epoch."""
    blank: nn.Module | None = None
    """A copy of the network for whole weights, where they are trained in shards."""
    position: Position = field(default_factory=Position)
    sums: EpochSums | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    held: ExitStack = field(default_factory=ExitStack)
    """Closing it lets other processes write to the folder."""
    saved_epoch: int = 0
    """The epoch of the newest checkpoint."""

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory order of images and weights."""
        return memory_format_of(self.plan.config)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def training_accuracy(self) -> float:
        """Percent, over the batches of the epoch so far."""
        return 100 * self.sums.correct / (self.position.batch * self.plan.config.batch_size)

    @property
    def tested_model(self) -> nn.Module:
        """The network that is measured: of the averaged weights, where the run averages."""
        return self.model if self.ema is None else self.ema.module

    def batches_from(self, epoch: int, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch, without the first ones.

        Args:
            epoch: Counted from 0.
            batch: How many are left out.
        """
        set_epoch(self.train_loader, epoch)
        if isinstance(self.train_loader, StreamLoader):  # it knows where it was
            return ((images.to(self.device), labels.to(self.device)) for images, labels in self.train_loader)
        loader = skip_first_batches(self.train_loader, batch) if batch else self.train_loader
        return itertools.islice(loader, self.batches_per_epoch - batch)

    def network_on_cpu(self) -> nn.Module:
        """The network to export, without wrappers; every process calls it."""
        if self.accelerator.distributed_type == DistributedType.FSDP:
            weights = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                self.blank.load_state_dict(weights)
            network = self.blank
        elif self.ema is not None:
            network = self.ema.module
        else:
            network = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        network = network.model if isinstance(network, PixelModel) else network
        return copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)


def memory_format_of(config: TrainConfig) -> torch.memory_format:
    """The memory order that a run asks for."""
    return torch.channels_last if config.channels_last else torch.contiguous_format
