"""Names and helpers of the annotations: what may be asked for, and a way past what PyTorch and timm declare wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BoundaryName", "LayoutName", "StemChoice", "WindowName", "present", "pretrained_cfg_of", "undeclared"]

T = TypeVar("T")

WindowName = Literal["asap", "hamming", "flc"]
BoundaryName = Literal["circular", "reflect", "zero"]
LayoutName = Literal["preserve", "paper"]
StemChoice = bool | Literal["auto"]
"""Whether the layer that reads the image is converted; `"auto"`: where its stride is 2 or 3."""


def present(value: T | None, what: str) -> T:
    """A value that is there by what was checked before, elsewhere.

    Raises:
        TypeError: It is not.
    """
    if value is None:
        raise TypeError(f"there is no {what}")
    return value


def undeclared(module: nn.Module | type[nn.Module]) -> Any:
    """A module for a type checker that lets its attributes be: the module itself.

    PyTorch declares that every attribute which a class does not list is a tensor or a module. Of a layer whose class is
    found at run time, and of timm's networks, it is a number, a tuple or a dictionary as well.
    """
    return module


def pretrained_cfg_of(model: nn.Module) -> dict[str, Any]:
    """The dictionary in which a network of timm says how it was trained; changing it changes the network's."""
    return undeclared(model).pretrained_cfg
