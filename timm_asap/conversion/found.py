"""What a walk over a network found at one module, before it is converted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from timm_asap.conversion.geometry import Geometry
from timm_asap.conversion.report import DownsamplingLayer
from timm_asap.conversion.rewrite import Call
from timm_asap.conversion.strided import AsapLayer, plain_class
from timm_asap.conversion.watch import Operation

__all__ = ["Found", "described", "row_of"]


@dataclass
class Found:
    """What one module has to be converted, and its rows in the report.

    Attributes:
        rows: Of the report.
        mixin: What the module becomes; None where it is left.
        geometry: Of a layer.
        calls: Downsampling calls in the module's code.
        is_part: The module's downsampling is reported with that of the block around it.
    """

    rows: list[DownsamplingLayer]
    mixin: type[AsapLayer] | None = None
    geometry: Geometry | None = None
    calls: list[Call] = field(default_factory=list)
    is_part: bool = False


def row_of(name: str, layer: str, **more: Any) -> DownsamplingLayer:
    """A row of the report for what is not converted."""
    return DownsamplingLayer(name, layer, converted=False, **more)


def described(operation: Operation, module: nn.Module) -> str:
    """An operation in a module's code, as a report shows it."""
    where = f", {operation.where}" if operation.where else ""
    return f"{operation.kind} / {operation.factor} in {plain_class(module).__name__}{where}"
