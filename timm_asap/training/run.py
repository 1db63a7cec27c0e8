"""What every part of the training loop works with, and how a checkpoint holds and restores it.

Restoring is bit-equal where the number of processes is the same.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator, DistributedType, skip_first_batches
from accelerate.utils import gather_object
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from timm_asap._startup import StopRequest
from timm_asap._types import present
from timm_asap.adversarial import PixelModel
from timm_asap.data import StreamLoader, set_epoch
from timm_asap.errors import UserError
from timm_asap.training.checkpoint import get_random_state, set_random_state
from timm_asap.training.config import TrainConfig
from timm_asap.training.display import ProgressDisplay
from timm_asap.training.objective import Objective
from timm_asap.training.plan import Plan
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
    def epoch_sums(self) -> EpochSums:
        """What the epoch has come to so far, once the run has begun or been restored."""
        return present(self.sums, "epoch that was begun")

    def reduced(self, tensor: torch.Tensor, how: Literal["sum", "mean"]) -> torch.Tensor:
        """A tensor's sum or mean over the processes, on each of them."""
        return cast(torch.Tensor, self.accelerator.reduce(tensor, how))  # a tensor gives a tensor

    @property
    def training_accuracy(self) -> float:
        """Percent, over the batches of the epoch so far."""
        return 100 * self.epoch_sums.correct / (self.position.batch * self.plan.config.batch_size)

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
                present(self.blank, "copy of the network").load_state_dict(weights)
            network = present(self.blank, "copy of the network")
        elif self.ema is not None:
            network = self.ema.module
        else:
            network = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        network = network.model if isinstance(network, PixelModel) else network
        return copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)


def memory_format_of(config: TrainConfig) -> torch.memory_format:
    """The memory order that a run asks for."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def gather_state(run: Run, sums: EpochSums) -> dict[str, Any]:
    """All that `restore_state` needs; every process calls it, and the main one gets it whole.

    Args:
        run: The run.
        sums: What the epoch has come to.
    """
    model, optimizer = _weights_and_optimizer(run)
    return {
        "position": asdict(run.position),
        "sums": asdict(sums),
        "model": model,
        "ema": None if run.ema is None else run.ema.module.state_dict(),
        "optimizer": optimizer,
        "scaler": None if run.accelerator.scaler is None else run.accelerator.scaler.state_dict(),
        "processes": gather_object([_own_state(run)]),
    }


def restore_state(run: Run, state: dict[str, Any], origin: object) -> EpochSums:
    """Put a state back; every process calls it.

    With another number of processes than before, the states of single processes mean nothing: those of this run's
    start are kept.

    Args:
        run: The run; its position, model, optimizer and generators are set.
        state: What `gather_state` gave.
        origin: Where it comes from, for the error.

    Returns:
        What the epoch had come to.

    Raises:
        UserError: If it is the state of another model or optimizer.
    """
    run.position.__init__(**state["position"])
    try:
        set_weights(run, state)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        first_lines = " ".join(str(error).split())[:200]
        raise UserError(f"{origin} holds the state of another model or optimizer: {first_lines}") from error
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    if len(state["processes"]) == run.accelerator.num_processes:
        _set_own_state(run, state["processes"][run.accelerator.process_index])
    return EpochSums(**state["sums"])


def set_weights(run: Run, state: dict[str, Any]) -> None:
    """Put back the weights, their average and the optimizer of a state; every process calls it."""
    _set_weights_and_optimizer(run, state)
    if run.ema is not None:
        run.ema.module.load_state_dict(state["ema"])


def _own_state(run: Run) -> dict[str, Any]:
    """What differs from process to process."""
    adversarial = {name: tensor.cpu() for name, tensor in run.objective.adversarial_state.state_dict().items()}
    stream = run.train_loader.state_dict() if isinstance(run.train_loader, StreamLoader) else None
    return {"random": get_random_state(), "adversarial": adversarial, "stream": stream}


def _set_own_state(run: Run, state: dict[str, Any]) -> None:
    set_random_state(state["random"])
    run.objective.adversarial_state.load_state_dict(state["adversarial"])
    if state["stream"] is not None and run.position.batch and isinstance(run.train_loader, StreamLoader):
        run.train_loader.load_state_dict(state["stream"])


def _weights_and_optimizer(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    if run.accelerator.distributed_type != DistributedType.FSDP:
        return run.accelerator.unwrap_model(run.model).state_dict(), run.optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_state_dict(run.model, _within(run.optimizer), options=whole)


def _within(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that accelerate has wrapped."""
    return optimizer.optimizer


def _set_weights_and_optimizer(run: Run, state: dict[str, Any]) -> None:
    if run.accelerator.distributed_type != DistributedType.FSDP:
        run.accelerator.unwrap_model(run.model).load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        run.model,
        _within(run.optimizer),
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )
