"""The state that a model is attacked in, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """Puts a model into evaluation or training mode, and each of its modules back as it was.

    Args:
        model: The model.
        mode: "eval" or "train".
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no parameter takes a gradient: for attacks that call `backward`."""
    taking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with in_mode(model, "eval"):
        try:
            for parameter in taking:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in taking:
                parameter.requires_grad_(True)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, which prepares for a backward pass that an attack never takes.

    Accelerate compiles the wrapper: then this is the model as it was before. Otherwise a compiled model stays so.
    """
    wrapper = getattr(model, "_orig_mod", model)
    return wrapper.module if isinstance(wrapper, DistributedDataParallel) else model
