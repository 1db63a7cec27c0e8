"""Parameters, multiply-adds and downsampling sites of an architecture, without building its weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch import nn

from timm_asap.convert import convert
from timm_asap.errors import UserError, unknown_name
from timm_asap.report import ConversionReport
from timm_asap.zoo.asap_twins import plain_name, twin_names

__all__ = ["TwinSummary", "build_on_meta", "dry_run", "summarize"]


@dataclass(frozen=True)
class TwinSummary:
    """What `timm-asap list` shows of a twin.

    Attributes:
        name: Name of the twin.
        parameters: Number of parameters.
        macs: Multiply-adds of the plain network for one image of `input_size`.
        added_macs: Multiply-adds that the operators add.
        converted: Strided layers that are alias-free.
        left: Strided layers that stayed as they were.
        input_size: (channels, height, width).
        tags: Pretrained tags.
    """

    name: str
    parameters: int
    macs: int
    added_macs: int
    converted: int
    left: int
    input_size: tuple[int, int, int]
    tags: tuple[str, ...]


def build_on_meta(architecture: str, **kwargs: object) -> nn.Module:
    """A model without data.

    Args:
        architecture: Any name of timm, without a tag.
        **kwargs: Keywords of `timm.create_model`.

    Raises:
        UserError: If timm knows no such architecture; names the closest matches.
    """
    if not timm.is_model(architecture):
        raise UserError(unknown_name("model", architecture, timm.list_models()))
    with torch.device("meta"):
        return timm.create_model(architecture, **kwargs)


def dry_run(
    architecture: str, input_size: tuple[int, int, int] | None = None, **options: object
) -> tuple[nn.Module, ConversionReport]:
    """What conversion would do to a plain architecture.

    Args:
        architecture: A plain architecture of timm or of this package.
        input_size: (channels, height, width); by default that of its pretrained configuration.
        **options: `layout`, `window`, `boundary` and `stem` of :func:`timm_asap.convert`.

    Returns:
        The plain model, on the meta device, and the report.
    """
    model = build_on_meta(architecture, **({"in_chans": input_size[0]} if input_size else {}))
    size = input_size or tuple(model.pretrained_cfg["input_size"])
    return model, convert(model, input_size=size, dry_run=True, **options)


def summarize(twin: str) -> TwinSummary:
    """Build a twin's plain architecture on the meta device and measure it at its own input size."""
    architecture = plain_name(twin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small maps: shown by `timm-asap convert`
        model, report = dry_run(architecture)
    tags = (name.partition(".")[2] for name, cfg in get_arch_pretrained_cfgs(twin).items() if cfg.has_weights)
    return TwinSummary(
        name=twin,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=report.macs,
        added_macs=report.added_macs,
        converted=len(report.converted),
        left=len(report.left),
        input_size=tuple(model.pretrained_cfg["input_size"]),
        tags=tuple(tags),
    )


def matching_twins(pattern: str) -> list[str]:
    """Twins whose name matches a shell pattern; the suffix may be left out.

    Raises:
        UserError: If none matches; names the closest.
    """
    import fnmatch

    names = twin_names()
    found = [n for n in names if fnmatch.fnmatch(n, pattern) or fnmatch.fnmatch(plain_name(n), pattern)]
    if not found:
        raise UserError(unknown_name("twin", pattern, names))
    return found
