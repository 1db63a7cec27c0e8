"""The report of a conversion, layer by layer: data to print, to test against, and to repeat the conversion from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from timm_asap._types import StemChoice
from timm_asap.conversion.geometry import Geometry
from timm_asap.conversion.operations import Operation
from timm_asap.conversion.rewrite import Call
from timm_asap.conversion.strided import AsapLayer, plain_class

__all__ = ["ConversionReport", "DownsamplingLayer", "Found", "as_record", "described", "row_of"]


@dataclass(frozen=True)
class DownsamplingLayer:
    """One place where a network downsamples: a strided layer, or an operation in the `forward` of a module.

    Attributes:
        name: The module's name in `model.named_modules()`; empty for the root.
        layer: What it was: class, kernel and stride, or the call and its line.
        converted: Whether the operator is attached to it now because of this conversion.
        becomes: What it became, in words; empty where it was not converted.
        reason: Why it was not converted; empty where it was.
        unhandled: It downsamples, and conversion does not know how to make it alias-free.
        operator: Name of the class that makes it alias-free; empty where it was not converted.
        input_size: (channels, height, width) of the map that reached it; None where no input size was given.
        macs: Multiply-adds of the plain layer for one image (none for a maximum); None where no size was given.
        added_macs: Multiply-adds that the operator adds for one image; None where no size was given or it was left.
        note: A warning, such as a map too small to keep more than its mean.
    """

    name: str
    layer: str
    converted: bool
    becomes: str = ""
    reason: str = ""
    unhandled: bool = False
    operator: str = ""
    input_size: tuple[int, ...] | None = None
    macs: int | None = None
    added_macs: int | None = None
    note: str = ""

    @property
    def status(self) -> str:
        """`"converted"`, `"left"` (with a reason) or `"not handled"`."""
        return "converted" if self.converted else "not handled" if self.unhandled else "left"

    def __str__(self) -> str:
        name = self.name or "(root)"
        if self.converted:
            return f"{name}: {self.layer} -> {self.becomes}"
        return f"{name}: {self.layer} {self.status}: {self.reason}"


@dataclass(frozen=True)
class ConversionReport:
    """Every place that `timm_asap.convert` found a network to downsample at, in the order of its modules.

    Attributes:
        sites: Those places.
        layout: `"preserve"` or `"paper"`.
        window: Window name.
        boundary: Boundary name.
        stem: What was asked for the first layer of the image.
        macs: Multiply-adds of all convolutions and linear layers for one image; None where no size was given.
        watched: A forward pass was watched: whatever downsampled in it is among the layers.
        unseen: Where no pass was watched, what reading the modules cannot see, a line each.
        upsampling: Layers and operations that make a grid finer.
    """

    sites: tuple[DownsamplingLayer, ...]
    layout: str
    window: str
    boundary: str
    stem: StemChoice
    macs: int | None = None
    watched: bool = False
    unseen: tuple[str, ...] = ()
    upsampling: tuple[DownsamplingLayer, ...] = ()

    @property
    def converted(self) -> tuple[DownsamplingLayer, ...]:
        """The layers that this conversion changed."""
        return tuple(site for site in self.sites if site.converted)

    @property
    def left(self) -> tuple[DownsamplingLayer, ...]:
        """The layers that stayed as they were, each with its reason."""
        return tuple(site for site in self.sites if not site.converted and not site.unhandled)

    @property
    def unhandled(self) -> tuple[DownsamplingLayer, ...]:
        """The layers that downsample as before because conversion does not know how to treat them."""
        return tuple(site for site in self.sites if site.unhandled)

    @property
    def complete(self) -> bool:
        """Whether all that downsamples is either converted or left for a reason, as a watched forward pass shows it.

        False without an example or an input size: reading the modules alone proves nothing about their code.
        """
        return self.watched and not self.unhandled

    @property
    def added_macs(self) -> int | None:
        """Multiply-adds that the converted layers add for one image; None where no input size was given.

        Layers that an image does not reach, of which timm's DLA and auxiliary heads have some, add none.
        """
        if self.macs is None:
            return None
        return sum(site.added_macs or 0 for site in self.converted)

    def to_json(self) -> str:
        """What was converted, as JSON: `timm_asap.convert(model, like=...)` repeats it on a model built anew.

        Raises:
            ValueError: This conversion changed nothing.
        """
        rows = [row for row in (*self.sites, *self.upsampling) if row.converted]
        if not rows:
            raise ValueError("this conversion changed nothing: there is nothing to repeat")
        options = {
            "window": self.window,
            "boundary": self.boundary,
            "layout": self.layout,
            "upsampling": any(row.converted for row in self.upsampling),
        }
        return json.dumps(as_record({row.name: {"becomes": row.operator, **options} for row in rows}), indent=2)

    def __str__(self) -> str:
        text = f"{len(self.converted)} strided layers converted ({self.layout}, {self.window}, {self.boundary})"
        if self.left:
            text += f", {len(self.left)} left as they were"
        if self.unhandled:
            text += f", {len(self.unhandled)} not handled"
        changed = [row for row in self.upsampling if row.converted]
        if changed:
            text += f"; {len(changed)} upsampling layers low-passed"
        rows = [*self.converted, *self.left, *self.unhandled, *changed]
        lines = [text, *(f"  {row}" for row in rows)]
        lines += [f"  {site.name or '(root)'}: {site.note}" for site in self.sites if site.note]
        lines += [f"  not seen: {line}" for line in self.unseen]
        return "\n".join(lines)


def as_record(converted: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a JSON file says of a conversion.

    Args:
        converted: By the module's name: the operator's class, and the options.
    """
    from timm_asap import __version__

    return {"format": 1, "timm_asap": __version__, "converted": converted}


#: The name from before.
Site = DownsamplingLayer


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
