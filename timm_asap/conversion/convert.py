"""Walks a model, converts its strided layers in place, and reports every one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import Enum

from torch import nn

from timm_asap.conversion.attention import reducing_attention
from timm_asap.conversion.geometry import Geometry, geometry_of, multiply_adds
from timm_asap.conversion.report import ConversionReport, Site
from timm_asap.conversion.sites import FunctionalSite, functional_site
from timm_asap.conversion.strided import AsapLayer, AsapSpec, is_converted, mixin_for, wear
from timm_asap.conversion.trace import LayerTrace, trace_layers
from timm_asap.errors import unknown_name
from timm_asap.spectral import as_boundary, as_window

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


def check_stem(stem: str | bool) -> str | bool:
    """`"auto"`, True or False, or ValueError."""
    if stem != "auto" and not isinstance(stem, bool):
        raise ValueError(f'stem: expected "auto", True or False, got {stem!r}')
    return stem


# A stem of this stride or more turns patches into tokens: strictly alias-free, it would see a thumbnail of the image.
_PATCHIFY_STRIDE = 4


def convert(
    model: nn.Module,
    layout: str = "preserve",
    window: str = "asap",
    boundary: str = "circular",
    stem: str | bool = "auto",
    input_size: tuple[int, int, int] | None = None,
    dry_run: bool = False,
) -> ConversionReport:
    """Make every strided layer of a model alias-free, in place.

    No parameter is renamed, added or removed: weights saved before fit after, and the other way round. Every output
    keeps its size. Converting twice changes nothing, and the report of the second time says so.

    Args:
        model: Any module; a strided layer by itself, shared modules and layers with hooks included.
        layout: `"preserve"` puts the low-pass before each strided convolution and average pool, and the pool after
            the maximum of a max-pool: upstream weights keep their meaning. `"paper"` puts the pool first and runs
            convolutions at stride 1, which doubles their receptive field; pools become the pool alone.
        window: `"asap"`, `"hamming"` or `"flc"`.
        boundary: `"circular"`, `"reflect"` or `"zero"`.
        stem: The first layer of the image: `"auto"` converts it where its stride is 2 or 3, True always, False never.
        input_size: (channels, height, width) of an image. Adds map sizes and multiply-adds to the report, by one pass
            through a copy of the model on the meta device, and warns of maps too small to pool.
        dry_run: Report what would be done, and leave the model as it is.

    Returns:
        A report of every strided layer: what it became, or why it was left.

    Raises:
        TypeError: `model` is no module.
        ValueError: An unknown layout, window, boundary or stem.

    Warns:
        UserWarning: With `input_size`: sites whose map is smaller than twice the stride, of which the mean alone is
            left.

    Reference:
        Grabinski, Keuper & Keuper, arXiv 2307.09804, for the layout `"paper"`; `"preserve"` is this package's.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> print(convert(model))
        2 strided layers converted (preserve, asap, circular)
          0: Conv2d 3x3 / 2 -> low-pass, then the layer
          2: MaxPool2d 2x2 / 2 -> max at stride 1, then pool
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    layout, window, boundary = as_layout(layout).value, as_window(window).value, as_boundary(boundary).value
    stem = check_stem(stem)
    traces, macs = trace_layers(model, input_size) if input_size is not None else ({}, None)
    stems = _stem_layers(model)

    sites = []
    for name, layer in list(model.named_modules()):
        found = _find(layer, layout)
        if found is None:
            continue
        reason = _why_left(model, name, found, layout, stem, is_stem=layer in stems)
        sites.append(_site(name, found, reason, traces.get(name)))
        if not reason and not dry_run:
            # A site without a geometry of its own takes its stride from the maps that reach it.
            wear(layer, AsapSpec(found.geometry or Geometry((1, 1), (1, 1)), window, boundary, layout), found.mixin)
    report = ConversionReport(tuple(sites), layout, window, boundary, stem, macs)
    _warn_of_small_maps(report)
    return report


@dataclass(frozen=True)
class _Found:
    """A strided layer, or a block that downsamples in its `forward`, and what it would become."""

    layer: nn.Module
    geometry: Geometry | None
    mixin: type[AsapLayer] | None
    functional: FunctionalSite | None = None

    @property
    def description(self) -> str:
        plain = type(self.layer).__bases__[1] if is_converted(self.layer) else type(self.layer)
        what = f"{self.functional.what} in {plain.__name__}" if self.functional else plain.__name__
        return f"{what} {self.geometry}" if self.geometry else what


def _find(layer: nn.Module, layout: str) -> _Found | None:
    if site := functional_site(layer):
        found = _Found(layer, site.geometry(layer), site.mixin(layout), site)
    elif geometry := (layer.asap.geometry if is_converted(layer) else geometry_of(layer)):
        found = _Found(layer, geometry, mixin_for(layer, geometry, layout))
    else:
        return None
    return None if found.geometry and max(found.geometry.stride) == 1 else found


def _why_left(model: nn.Module, name: str, found: _Found, layout: str, stem: str | bool, is_stem: bool) -> str:
    """The reason to leave a strided layer as it is, or an empty string."""
    if is_converted(found.layer):
        spec = found.layer.asap
        return f"already converted ({spec.layout}, {spec.window}, {spec.boundary})"
    stride = max(found.geometry.stride) if found.geometry else 0
    if is_stem and stem is False:
        return "the stem, and stem=False"
    if is_stem and stem == "auto" and stride >= _PATCHIFY_STRIDE:
        return f"a patchify stem (stride {stride}); stem=True converts it"
    if found.mixin is None:
        return found.functional.reason
    if found.functional is None and (owner := reducing_attention(model, name)):
        return f"a reduction inside {owner}"
    if found.functional is None and layout == "paper" and not found.geometry.fits_pool():
        return "padded wider than 'same': the pool has fewer samples than its output"
    return ""


def _stem_layers(model: nn.Module) -> list[nn.Module]:
    """The first layers of the image: those timm names, or else the first convolution; and reshapes before them."""
    traits = getattr(model, "_traits", None) or getattr(model, "pretrained_cfg", None) or {}
    names = traits.get("first_conv") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    # Feature wrappers hold the network as 'model', or flatten its containers: 'stem.0' becomes 'stem_0'.
    modules = {name.removeprefix("model.").replace(".", "_"): layer for name, layer in model.named_modules()}
    found = [modules[name.replace(".", "_")] for name in names if name.replace(".", "_") in modules]
    reshapes = [layer for layer in modules.values() if (site := functional_site(layer)) and site.is_stem]
    return reshapes + (found or [layer for layer in modules.values() if isinstance(layer, nn.Conv2d)][:1])


def _site(name: str, found: _Found, reason: str, trace: LayerTrace | None) -> Site:
    added, note = None, ""
    if trace is not None and not reason:
        size, stride = trace.input_size[1:], found.geometry.stride
        added = multiply_adds(trace.input_size[0], size, stride, found.mixin.pools)
        if any(1 < n < 2 * s for n, s in zip(size, stride, strict=True) if s > 1):
            note = f"a map of {size[0]}x{size[1]} keeps its mean alone at stride {max(stride)}"
    return Site(
        name=name,
        layer=found.description,
        converted=not reason,
        becomes="" if reason else found.mixin.becomes,
        reason=reason,
        input_size=trace.input_size if trace else None,
        macs=trace.macs if trace else None,
        added_macs=added,
        note=note,
    )


def _warn_of_small_maps(report: ConversionReport) -> None:
    small = [site for site in report.sites if site.note]
    if small:
        warnings.warn(
            f"{len(small)} downsampling sites get maps so small that their mean alone is left, first "
            f"{small[0].name}: {small[0].note}; use larger images or a network of a smaller total stride",
            stacklevel=3,
        )
