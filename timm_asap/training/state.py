"""What a checkpoint of a run holds, and putting it back: bit-equally where the number of processes is the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from accelerate import DistributedType
from accelerate.utils import gather_object

from timm_asap.data import StreamLoader
from timm_asap.errors import UserError
from timm_asap.training.random_state import get_random_state, set_random_state
from timm_asap.training.run import EpochSums, Run


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
    if state["stream"] is not None and run.position.batch:
        run.train_loader.load_state_dict(state["stream"])


def _weights_and_optimizer(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    if run.accelerator.distributed_type != DistributedType.FSDP:
        return run.accelerator.unwrap_model(run.model).state_dict(), run.optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_state_dict(run.model, run.optimizer.optimizer, options=whole)


def _set_weights_and_optimizer(run: Run, state: dict[str, Any]) -> None:
    if run.accelerator.distributed_type != DistributedType.FSDP:
        run.accelerator.unwrap_model(run.model).load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        run.model,
        run.optimizer.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )
