"""Registers `<architecture>_asap` for every architecture of the families, with its pretrained tags.

The file's name is what `timm.list_models(module="asap_twins")` takes: timm keys modules by their last name, so none
of this package's may be called like one of timm's.

A twin is the plain architecture's own entrypoint, followed by `timm_asap.convert`. Its pretrained tags are those
of the plain architecture and take the plain architecture's weights: they were trained without ASAP, and are a starting
point for healing or fine-tuning. Only where this package ships weights of the twin itself does its tag mean those.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import timm
from timm.models import (
    FeatureGraphNet,
    get_arch_pretrained_cfgs,
    model_entrypoint,
    register_model,
    split_model_name_tag,
)
from torch import nn

from timm_asap._timm import NOTES_ARGUMENTS, DefaultCfg, PretrainedCfg, record_arguments, resolve_pretrained_cfg
from timm_asap._types import BoundaryName, LayoutName, StemChoice, WindowName, pretrained_cfg_of, undeclared
from timm_asap.conversion.convert import as_layout, check_stem, convert
from timm_asap.ops.spectral import as_boundary, as_window
from timm_asap.zoo.families import FAMILIES
from timm_asap.zoo.shipped import shipped_cfgs

__all__ = ["SUFFIX", "AsapOptions", "UpstreamWeightsWarning", "is_twin", "plain_name", "register_twins", "twin_names"]

SUFFIX = "_asap"

#: In `pretrained_cfg["notes"]` of every twin that takes upstream weights.
UPSTREAM_NOTE = "upstream weights, trained without ASAP: a starting point to heal or fine-tune before classifying"

#: Begins the note of a twin's options.
_OPTIONS_NOTE = "asap options: "


class UpstreamWeightsWarning(UserWarning):
    """A twin was made with the plain architecture's weights and classifier: what it then predicts is not measured."""


# Names that were warned of: once each.
_warned: set[str] = set()

# Keys of a configuration that name other weights than those of its tag.
_OTHER_WEIGHTS = ("file", "state_dict", "source")

#: Read by timm's `register_model`: the pretrained configurations of each twin.
default_cfgs: dict[str, DefaultCfg] = {}


@dataclass(frozen=True)
class AsapOptions:
    """The keywords that a twin takes besides those of its plain architecture; plain JSON values.

    Attributes:
        asap_window: `"asap"`, `"hamming"` or `"flc"`.
        asap_boundary: `"circular"`, `"reflect"` or `"zero"`.
        asap_layout: `"preserve"` or `"paper"`.
        asap_stem: `"auto"`, True or False.
    """

    asap_window: WindowName = "asap"
    asap_boundary: BoundaryName = "circular"
    asap_layout: LayoutName = "preserve"
    asap_stem: StemChoice = "auto"

    def __post_init__(self) -> None:
        as_window(self.asap_window)
        as_boundary(self.asap_boundary)
        as_layout(self.asap_layout)
        check_stem(self.asap_stem)

    @classmethod
    def take_from(cls, kwargs: dict[str, Any]) -> AsapOptions:
        """Remove these options from keyword arguments; raises ValueError for values that are not valid."""
        return cls(**{name: kwargs.pop(name) for name in cls.__dataclass_fields__ if name in kwargs})

    def convert(self, model: nn.Module) -> None:
        """Convert a model in place with these options."""
        convert(
            model,
            layout=self.asap_layout,
            window=self.asap_window,
            boundary=self.asap_boundary,
            stem=self.asap_stem,
        )


def is_twin(name: str) -> bool:
    """Whether a model name, with or without a tag, is that of a registered twin."""
    return split_model_name_tag(name)[0] in default_cfgs


def plain_name(name: str) -> str:
    """The plain architecture (and tag) of a twin: `resnet50_asap.a1_in1k` gives `resnet50.a1_in1k`."""
    architecture, tag = split_model_name_tag(name)
    architecture = architecture.removesuffix(SUFFIX)
    return f"{architecture}.{tag}" if tag else architecture


def twin_names() -> list[str]:
    """Every registered twin, without tags, sorted as timm sorts."""
    return timm.list_models(module=__name__.rpartition(".")[2])


def register_twins(families: tuple[str, ...] = FAMILIES) -> None:
    """Register a twin for every architecture of the families. Builds no network.

    Args:
        families: Names of timm's model modules.
    """
    for family in families:
        for architecture in timm.list_models(module=family):
            if architecture + SUFFIX not in default_cfgs:
                _register_twin(architecture)


def _register_twin(architecture: str) -> None:
    twin = architecture + SUFFIX
    default_cfgs[twin] = _twin_cfgs(architecture)
    entrypoint = _entrypoint(architecture, twin)
    setattr(sys.modules[__name__], twin, entrypoint)
    register_model(entrypoint)


def _twin_cfgs(architecture: str) -> DefaultCfg:
    """The plain architecture's pretrained configurations, default first, hub ids complete; the twin's own instead."""
    own = shipped_cfgs(architecture + SUFFIX)
    cfgs: dict[str, PretrainedCfg] = {}
    for name, cfg in get_arch_pretrained_cfgs(architecture).items():
        tag = split_model_name_tag(name)[1]
        notes = (*(cfg.notes or ()), UPSTREAM_NOTE) if cfg.has_weights else cfg.notes
        # register_model fills in the twin's architecture and tag.
        cfgs[tag] = own.get(tag) or replace(cfg, architecture=None, tag=None, notes=notes)
    # what this package adapted comes first: it is what the bare name should mean
    cfgs = {**{tag: cfg for tag, cfg in own.items() if tag not in cfgs}, **cfgs}
    if not cfgs:
        cfgs[""] = PretrainedCfg()
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs, is_pretrained=any(cfg.has_weights for cfg in cfgs.values()))


def _entrypoint(architecture: str, twin: str) -> Callable[..., nn.Module]:
    build_plain = model_entrypoint(architecture)

    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        # Resolved under the twin's name: the plain entrypoint would record its own architecture, and what is saved
        # would load as a plain network, strictly and silently.
        cfg = resolve_pretrained_cfg(twin, pretrained_cfg, pretrained_cfg_overlay).to_dict()
        options = AsapOptions.take_from(kwargs := {**_noted_options(cfg), **kwargs})
        if pretrained and _keeps_upstream_classifier(cfg, kwargs):
            _warn_of_upstream_weights(twin, cfg)
        if cfg.get("tag") == "fcmae":
            # timm's convnext recognizes this headless tag by a string, which no longer arrives as one.
            kwargs.setdefault("pretrained_strict", False)
        if kwargs.get("feature_cls") in ("fx", FeatureGraphNet):
            # Tracing would write strides into the graph before they could be converted, and forgets attention's name.
            kwargs["feature_cls"] = _graph_after_conversion(options)
        model = build_plain(pretrained=pretrained, pretrained_cfg=cfg, **kwargs)
        if not isinstance(model, FeatureGraphNet):
            options.convert(model)
        record_arguments(model, **kwargs)
        if not NOTES_ARGUMENTS and options != AsapOptions():
            notes = [note for note in cfg.get("notes") or () if not note.startswith(_OPTIONS_NOTE)]
            pretrained_cfg_of(model)["notes"] = (*notes, f"{_OPTIONS_NOTE}{json.dumps(asdict(options))}")
        undeclared(model)._model_args = {**getattr(model, "_model_args", {}), **asdict(options)}
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = twin
    entrypoint.__module__ = __name__
    entrypoint.__doc__ = (
        f"{architecture} with alias-free downsampling; takes its keywords and those of `AsapOptions`. "
        "Pretrained weights are those of the plain architecture, trained without ASAP: heal or fine-tune them; "
        "except those that this package ships, which the twin was trained to."
    )
    return entrypoint


def _noted_options(cfg: dict[str, Any]) -> dict[str, Any]:
    """The options in the notes of a configuration, where timm to 1.0.30 saved it: it saves no keywords of a network."""
    for note in cfg.get("notes") or ():
        if isinstance(note, str) and note.startswith(_OPTIONS_NOTE):
            options = json.loads(note.removeprefix(_OPTIONS_NOTE))
            return {name: options[name] for name in AsapOptions.__dataclass_fields__ if name in options}
    return {}


def _keeps_upstream_classifier(cfg: dict[str, Any], kwargs: dict[str, Any]) -> bool:
    """Whether a twin's predictions would be those of upstream weights as they are."""
    own_classes = cfg.get("num_classes")
    if UPSTREAM_NOTE not in (cfg.get("notes") or ()) or any(cfg.get(key) for key in _OTHER_WEIGHTS) or not own_classes:
        return False
    return not kwargs.get("features_only") and kwargs.get("num_classes") in (None, own_classes)


def _warn_of_upstream_weights(twin: str, cfg: dict[str, Any]) -> None:
    name = f"{twin}.{cfg['tag']}" if cfg.get("tag") else twin
    if name in _warned:
        return
    _warned.add(name)
    warnings.warn(
        f"{name}: upstream weights, trained without ASAP; how far it agrees with the plain network is not measured. "
        f"Before it classifies: `timm-asap adapt {plain_name(name)} --images DIR`, or fine-tune",
        UpstreamWeightsWarning,
        stacklevel=4,
    )


def _graph_after_conversion(options: AsapOptions) -> type[FeatureGraphNet]:
    class ConvertedGraphNet(FeatureGraphNet):
        """timm's fx feature extractor, traced from the converted model."""

        def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
            options.convert(model)
            kwargs.pop("flatten_sequential", None)  # to 1.0.30 timm knows only by the class that it is of no use here
            super().__init__(model, *args, **kwargs)

    return ConvertedGraphNet
