"""Finds what makes a grid finer: transposed convolutions, interpolation, pixel shuffles, and calls of their functions.

They alias the other way: copies of the input's spectrum appear above its Nyquist frequency.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from timm_asap.conversion.check import Observation
from timm_asap.conversion.functional import Options
from timm_asap.conversion.geometry import upsampling_geometry
from timm_asap.conversion.operations import Operation
from timm_asap.conversion.report import DownsamplingLayer, Found, described, row_of
from timm_asap.conversion.rewrite import AliasFreeCalls, call_of, calls_in
from timm_asap.conversion.strided import AsapLayer, LowPassedAfter, PoolTransposed, is_converted, plain_class

__all__ = ["find_upsampling"]

_OFF = "upsampling=False"
_UNREAD = "no call in the module's source does it by a whole factor, or its source is not available"


def find_upsampling(
    model: nn.Module, options: Options, seen: Observation | None, downsampling: Collection[str]
) -> dict[str, Found]:
    """Every module that makes a grid finer, by name.

    Args:
        model: The network.
        options: What the conversion was asked for; without `upsampling` everything is left.
        seen: A forward pass; None reads the modules alone.
        downsampling: Names of modules that downsample by themselves.
    """
    found: dict[str, Found] = {}
    for name, module in model.named_modules():
        if is_converted(module):
            if issubclass(module.asap_mixin, (LowPassedAfter, PoolTransposed)):
                layer = f"{plain_class(module).__name__} {module.asap.geometry}"
                found[name] = Found([row_of(name, layer, reason="already converted")])
            continue
        geometry = upsampling_geometry(module)
        operations = [op for op in seen.operations if op.module == name and op.upsamples] if seen else None
        if geometry is not None:
            mixin: type[AsapLayer] = LowPassedAfter
            if options.layout == "paper" and isinstance(module, nn.Upsample):
                mixin = PoolTransposed
            row = _row(name, f"{type(module).__name__} {geometry}", mixin, mixin.becomes, options)
            found[name] = Found([row], mixin if options.upsampling else None, geometry)
        elif not type(module).__module__.startswith("torch."):
            rows = _rows_of_calls(name, module, options, operations)
            converts = any(row.converted for row in rows)
            # A module whose downsampling calls are rewritten has these rewritten with them.
            own = converts and name not in downsampling
            found[name] = Found(rows, AliasFreeCalls if own else None)
    return {name: site for name, site in found.items() if site.rows}


def _row(name: str, layer: str, mixin: type[AsapLayer], becomes: str, options: Options) -> DownsamplingLayer:
    if not options.upsampling:
        return row_of(name, layer, reason=_OFF)
    return DownsamplingLayer(name, layer, converted=True, becomes=becomes, operator=mixin.__name__)


def _rows_of_calls(
    name: str, module: nn.Module, options: Options, operations: list[Operation] | None
) -> list[DownsamplingLayer]:
    kind = type(module).__name__
    calls = [call for call in calls_in(module) if call.upsamples is not False]
    after = "the call, then low-pass"
    if operations is None:
        certain = [call for call in calls if call.upsamples]
        return [_row(name, f"{call.name} in {kind}, {call.where}", AliasFreeCalls, after, options) for call in certain]
    rows = []
    for operation in operations:
        call = call_of(calls, operation.lines, operation.kind)
        pairs = zip((operation.input_shape[a] for a in operation.axes), operation.axes, strict=True)
        whole = all(operation.output_shape[axis] % n == 0 or "conv" in operation.kind for n, axis in pairs)
        if call is not None and whole:
            where = f", {call.where}" if call.file else ""
            rows.append(_row(name, f"{call.name} in {kind}{where}", AliasFreeCalls, after, options))
        else:
            rows.append(row_of(name, described(operation, module), reason=_UNREAD, unhandled=options.upsampling))
    return list(dict.fromkeys(rows))
