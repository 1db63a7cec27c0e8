"""Converts what downsamples in a network, in place, and reports all of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from torch import nn

from timm_asap._types import BoundaryName, LayoutName, StemChoice, WindowName
from timm_asap.conversion.check import Observation, check_conversion, observe, observe_on_meta
from timm_asap.conversion.functional import Options
from timm_asap.conversion.geometry import Geometry, multiply_adds
from timm_asap.conversion.operations import Operation
from timm_asap.conversion.report import ConversionReport, DownsamplingLayer, Found, described, row_of
from timm_asap.conversion.rewrite import AliasFreeCalls, call_of, calls_in
from timm_asap.conversion.saving import repeat_conversion
from timm_asap.conversion.sites import (
    PATCHIFY_STRIDE,
    Downsampling,
    functional_site,
    image_layers,
    opaque_reason,
    reducing_attention,
    site_of,
)
from timm_asap.conversion.strided import AsapLayer, AsapSpec, attach, detach, is_converted, keeps_sizes, plain_class
from timm_asap.conversion.upsampling import find_upsampling
from timm_asap.conversion.watch import module_at
from timm_asap.errors import unknown_name
from timm_asap.ops.spectral import Boundary, Window, as_boundary, as_window

__all__ = ["Layout", "convert"]


class Layout(str, Enum):
    """Where the operator sits around a strided layer."""

    PRESERVE = "preserve"
    PAPER = "paper"


def as_layout(layout: str | Layout) -> Layout:
    """The layout of that name; raises ValueError that lists the valid ones."""
    try:
        return Layout(layout)
    except ValueError:
        raise ValueError(unknown_name("layout", layout, [v.value for v in Layout])) from None


def check_stem(stem: StemChoice) -> StemChoice:
    """`"auto"`, True or False, or ValueError."""
    if stem != "auto" and not isinstance(stem, bool):
        raise ValueError(f'stem: expected "auto", True or False, got {stem!r}')
    return stem


def convert(
    model: nn.Module,
    layout: LayoutName | Layout = "preserve",
    window: WindowName | Window = "asap",
    boundary: BoundaryName | Boundary = "circular",
    stem: StemChoice = "auto",
    input_size: tuple[int, int, int] | None = None,
    dry_run: bool = False,
    *,
    example: Any = None,
    upsampling: bool = False,
    like: Any = None,
) -> ConversionReport:
    """Make everything that downsamples in a model alias-free, in place.

    No parameter is renamed, added or removed: weights saved before fit after, and the other way round. Every output
    keeps its size. Converting twice changes nothing, and the report of the second time says so.

    Layers with a stride are found by reading the model's modules; calls of PyTorch's downsampling functions and strided
    slices in a module's own `forward` by reading its source. What neither shows, an `example` does: one forward pass is
    watched for every operation that makes a grid coarser, so that the report lists all of them, and a second one, on
    noise, checks that what each converted layer samples has nothing above the cut. What does not pass is put back as it
    was and reported as not handled.

    Args:
        model: Any module; a strided layer by itself, shared modules and layers with hooks included.
        layout: `"preserve"` puts the low-pass before each strided convolution and average pool, and the pool after
            the maximum of a max-pool: upstream weights keep their meaning. `"paper"` puts the pool first and runs
            convolutions at stride 1, which doubles their receptive field; pools become the pool alone.
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.
        stem: What reads the image first: `"auto"` converts it where its stride is 2 or 3, True always, False never.
        input_size: (channels, height, width) of an image. Adds map sizes and multiply-adds to the report, by one pass
            through a copy of the model on the meta device, which is watched too, and warns of maps too small to pool.
        dry_run: Report what would be done, and leave the model as it is.
        example: An input to run the model on: a tensor, a tuple of positional arguments or a dictionary of keyword
            arguments, on the model's device.
        upsampling: Remove the images of the spectrum, too, that transposed convolutions, interpolation and pixel
            shuffles make: a low-pass comes after each that enlarges by a whole factor. In the layout `"paper"` the
            transpose of the pool takes the place of `nn.Upsample`.
        like: A conversion to repeat, on a model of the same class: a report or its `to_json()`, a converted model, its
            `state_dict()`, or the path of a folder that `timm_asap.save` wrote. The other arguments do not count.

    Returns:
        A report of every site: what it became, why it was left, or that it is not handled.

    Raises:
        TypeError: `model` is no module.
        ValueError: An unknown layout, window, boundary or stem; or `like` is of another model.

    Warns:
        UserWarning: With `input_size` or `example`: layers whose map is smaller than twice the stride, of which the
            mean alone is left.

    Reference:
        Grabinski, Keuper & Keuper, arXiv 2307.09804, for the layout `"paper"`; `"preserve"` is this package's.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> print(convert(model))
        2 strided layers converted (preserve, asap, circular)
          0: Conv2d 3x3 / 2 -> low-pass, then the layer
          2: MaxPool2d 2x2 / 2 -> max at stride 1, then pool
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if like is not None:
        return repeat_conversion(model, like)
    options = Options(as_window(window).value, as_boundary(boundary).value, as_layout(layout).value, upsampling)
    check_stem(stem)
    seen = None
    if example is not None:
        seen = observe(model, example)
    elif input_size is not None:
        seen = observe_on_meta(model, input_size)

    found = _find_all(model, options, stem, seen)
    enlarging = find_upsampling(model, options, seen, {name for name, site in found.items() if site.rows})
    if not dry_run:
        for name, site in (*found.items(), *enlarging.items()):
            _attach(module_at(model, name), site, options)
        if example is not None:
            _check(model, example, found, enlarging)
    report = ConversionReport(
        sites=tuple(row for site in found.values() for row in site.rows),
        layout=options.layout,
        window=options.window,
        boundary=options.boundary,
        stem=stem,
        macs=seen.macs if seen else None,
        watched=seen is not None,
        unseen=() if seen else _unseen(model, found),
        upsampling=tuple(row for site in enlarging.values() for row in site.rows),
    )
    _warn_of_small_maps(report)
    return report


def _find_all(model: nn.Module, options: Options, stem: StemChoice, seen: Observation | None) -> dict[str, Found]:
    stems, named = image_layers(model)
    found: dict[str, Found] = {}
    for name, module in model.named_modules():
        if any(isinstance(owner, torch.jit.ScriptModule) for owner in _owners(model, name)):
            continue
        operations = seen.at(name) if seen else None
        if is_converted(module) and issubclass(module.asap_mixin, AliasFreeCalls):
            found[name] = Found([row_of(name, plain_class(module).__name__, reason=_already(module))])
        elif (site := site_of(module, shrinks=bool(operations))) is not None:
            blocks = [block for owner in _owners(model, name) if (block := functional_site(owner))]
            if any(block.what == f"nn.{site.plain_class.__name__}" for block in blocks):
                found[name] = Found([], is_part=True)
                continue
            on_image = module not in named and any(operation.on_image for operation in operations or ())
            is_stem = module in stems or on_image
            reason = _why_left(model, name, module, site, options.layout, stem, is_stem, seen)
            found[name] = _found_layer(name, module, site, reason, options.layout, seen)
        elif reason := opaque_reason(module):
            found[name] = Found(_opaque_rows(name, module, reason, operations))
        elif operations or (operations is None and not is_library_class(type(module))):
            found[name] = _found_calls(model, name, module, operations, stem, seen)
    return {name: site for name, site in found.items() if site.rows or site.is_part}


def _owners(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules around a module."""
    while name:
        name = name.rpartition(".")[0]
        yield module_at(model, name)


def _already(module: AsapLayer) -> str:
    spec = module.asap
    return f"already converted ({spec.layout}, {spec.window}, {spec.boundary})"


# Layers with a stride, and blocks of timm.


def _why_left(
    model: nn.Module,
    name: str,
    module: nn.Module,
    site: Downsampling,
    layout: str,
    stem: StemChoice,
    is_stem: bool,
    seen: Observation | None,
) -> str:
    """The reason to leave a layer as it is, or an empty string."""
    if is_converted(module):
        return _already(module)
    stride = max(site.geometry.stride) if site.geometry else 0
    if reason := _stem_reason(is_stem, stride, stem):
        return reason
    mixin = site.mixin(layout)
    if mixin is None and site.is_block:
        return site.reason
    if not site.is_block and (owner := reducing_attention(model, name, seen.layers if seen else None)):
        return f"a reduction inside {owner}"
    if mixin is None:
        return site.reason
    if site.geometry and not keeps_sizes(module, site.geometry, mixin):
        return "its own `forward` gives another size at stride 1 than its kernel and padding say"
    return ""


def _stem_reason(is_stem: bool, stride: int, stem: StemChoice, resizes: bool = False) -> str:
    if is_stem and stem is False:
        return f"{'resizes the image' if resizes else 'the stem'}, and stem=False"
    if is_stem and stem == "auto" and stride >= PATCHIFY_STRIDE:
        what = f"resizes the image by {stride}" if resizes else f"a patchify stem (stride {stride})"
        return f"{what}; stem=True converts it"
    return ""


def _found_layer(
    name: str, module: nn.Module, site: Downsampling, reason: str, layout: str, seen: Observation | None
) -> Found:
    mixin = site.mixin(layout) if not reason else None
    trace = seen.layers.get(name) if seen else None
    added, note = None, ""
    # Tokens, of which a block knows the grid, are counted as nothing.
    if trace is not None and mixin is not None and site.geometry and len(trace.input_size) == site.geometry.axes + 1:
        channels, *size = trace.input_size if site.channels_first else (trace.input_size[-1], *trace.input_size[:-1])
        stride = site.geometry.stride
        added = multiply_adds(channels, size, stride, mixin.pools if site.pools is None else site.pools)
        if any(1 < n < 2 * s for n, s in zip(size, stride, strict=True) if s > 1):
            shown = "x".join(map(str, size))
            note = f"a map of {shown} keeps its mean alone at stride {max(stride)}"
    row = DownsamplingLayer(
        name=name,
        layer=site.what,
        converted=mixin is not None,
        becomes=mixin.becomes + _cut_of(seen.at(name) if seen else ()) if mixin else "",
        reason=reason,
        operator=mixin.__name__ if mixin else "",
        input_size=trace.input_size if trace else None,
        macs=trace.macs if trace else None,
        added_macs=added,
        note=note,
    )
    return Found([row], mixin, site.geometry)


def _cut_of(operations: Iterable[Operation]) -> str:
    """What a report adds where a map shrinks by no whole factor, whose cut is that of the next whole one."""
    for operation in operations:
        if operation.is_fractional:
            before, after = ("x".join(map(str, size)) for size in operation.sizes)
            return f" (from {before} to {after}: cut as for a stride of {operation.factor}, the next whole factor)"
    return ""


# Modules that cannot be looked into.


def _opaque_rows(
    name: str, module: nn.Module, reason: str, operations: list[Operation] | None
) -> list[DownsamplingLayer]:
    if operations is None:
        return [row_of(name, plain_class(module).__name__, reason=reason, unhandled=True)]
    return [row_of(name, described(operation, module), reason=reason, unhandled=True) for operation in operations]


# Calls in a module's own code.

# Classes whose code is known: their layers and blocks downsample, whatever else they call downsamples nothing.
_KNOWN = ("torch.", "timm.", "timm_asap.")


def is_library_class(cls: type) -> bool:
    """Whether a class's downsampling is known without reading its source."""
    return cls.__module__.startswith(_KNOWN)


def _found_calls(
    model: nn.Module,
    name: str,
    module: nn.Module,
    operations: list[Operation] | None,
    stem: StemChoice,
    seen: Observation | None,
) -> Found:
    calls = [call for call in calls_in(module) if call.strides is not False]
    kind = type(module).__name__
    if operations is None:
        certain = [call for call in calls if call.strides is True]
        rows = [
            DownsamplingLayer(
                name, f"{call.name} in {kind}, {call.where}", True, call.becomes, operator=AliasFreeCalls.__name__
            )
            for call in certain
        ]
        return Found(rows, AliasFreeCalls if certain else None, calls=calls)
    rows, mixin = [], None
    owner = reducing_attention(model, name, seen.layers if seen else None)
    for operation in operations:
        call = call_of(calls, operation.lines, operation.kind)
        reason = _stem_reason(operation.on_image, max(operation.stride), stem, operation.kind == "resize")
        if operation.filters_itself:
            reason = reason or "PyTorch's own antialiasing, a low-pass already"
        elif owner:
            reason = reason or f"a reduction inside {owner}"
        what = described(operation, module)
        if reason:
            rows.append(row_of(name, what, reason=reason))
        elif call is None:
            rows.append(row_of(name, what, reason=_UNREAD, unhandled=True))
        else:
            mixin = AliasFreeCalls
            where = f", {call.where}" if call.file else ""
            what = f"{call.name} in {kind}{where}"
            becomes = call.becomes + _cut_of([operation])
            rows.append(DownsamplingLayer(name, what, True, becomes, operator=AliasFreeCalls.__name__))
    rows = list(dict.fromkeys(rows))
    if mixin is not None and any(row.reason for row in rows if not row.unhandled):
        # Calls are rewritten class by class, all of them: what is to be left would be converted with the rest.
        mixed = {"reason": _MIXED, "unhandled": True}
        rows = [row if row.reason else replace(row, converted=False, becomes="", operator="", **mixed) for row in rows]
        mixin = None
    return Found(rows, mixin, calls=calls)


_UNREAD = "no call in the module's source does it, or its source is not available"
_MIXED = "another call of the same module is left, and calls are rewritten together"


def _unseen(model: nn.Module, found: dict[str, Found]) -> tuple[str, ...]:
    """What reading the modules leaves open."""
    lines: dict[str, None] = {}
    classes: dict[str, None] = {}
    resizing = [n for n, m in model.named_modules() if isinstance(m, nn.Upsample) and m.size and not is_converted(m)]
    for name in resizing:
        lines[f"{name or 'the model itself'}, {module_at(model, name)}, which shrinks its map or not"] = None
    for name, module in model.named_modules():
        if is_library_class(plain_class(module)) or is_converted(module):
            continue
        classes[type(module).__name__] = None
        for call in calls_in(module):
            if call.strides is None and (name not in found or found[name].mixin is None):
                where = f", {call.where}" if call.file else ""
                lines[f"{call.name} in {type(module).__name__}{where}, which shrinks its map or not"] = None
    if not classes:
        return tuple(lines)
    shown = ", ".join(list(classes)[:5]) + (", ..." if len(classes) > 5 else "")
    last = f"what {shown} compute besides; example=(an input) watches a forward pass"
    return (*lines, last)


# Attaching and checking.


def _attach(module: nn.Module, site: Found, options: Options) -> None:
    if site.mixin is None:
        return
    # A layer without a geometry of its own takes its stride from the maps that reach it.
    attach(module, AsapSpec(site.geometry or Geometry((1, 1), (1, 1)), *options), site.mixin)


def _check(model: nn.Module, example: Any, found: dict[str, Found], enlarging: dict[str, Found]) -> None:
    """Run the converted model on noise; put back and report what still aliases."""
    try:
        result = check_conversion(model, example, {name for name, site in found.items() if site.mixin is None})
    except Exception:
        for name in {name for name, site in (*found.items(), *enlarging.items()) if site.mixin is not None}:
            detach(module_at(model, name))
        raise
    for name, reason in result.failed.items():
        site = found[name]
        detach(module_at(model, name))
        site.mixin = None
        site.rows = [
            replace(
                row,
                converted=False,
                becomes="",
                operator="",
                reason=row.reason or reason,
                unhandled=row.converted or row.unhandled,
            )
            for row in site.rows
        ]
    for operation in result.missed:
        site = found.setdefault(operation.module, Found([]))
        what = described(operation, module_at(model, operation.module))
        if not any(row.layer == what for row in site.rows):
            site.rows.append(row_of(operation.module, what, reason=_UNREAD, unhandled=True))


def _warn_of_small_maps(report: ConversionReport) -> None:
    small = [site for site in report.sites if site.note]
    if small:
        warnings.warn(
            f"{len(small)} downsampling layers get maps so small that their mean alone is left, first "
            f"{small[0].name}: {small[0].note}; use larger images or a network of a smaller total stride",
            stacklevel=3,
        )
