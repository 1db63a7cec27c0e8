"""Parameters, multiply-adds and downsampling layers of the twins: measured without weights, and shipped measured.

`python -m timm_asap.zoo.page` writes what is shipped.
"""

from __future__ import annotations

import fnmatch
import json
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import timm
from timm.models import get_arch_pretrained_cfgs
from torch import nn

from timm_asap import _timm
from timm_asap._types import pretrained_cfg_of
from timm_asap.conversion.convert import convert
from timm_asap.conversion.report import ConversionReport
from timm_asap.errors import UserError, unknown_name
from timm_asap.zoo.asap_twins import plain_name, twin_names
from timm_asap.zoo.shipped import is_adapted, is_shipped

__all__ = [
    "TagLicense",
    "TwinSummary",
    "build_on_meta",
    "dry_run",
    "licenses",
    "matching_twins",
    "measure",
    "pretrained_tags",
    "shown_tags",
    "summarize",
    "weights_state",
]

# What follows a tag in tables, by the state of the weights.
_MARKS = {"trained": "*", "adapted": "+", "upstream": ""}

_SHIPPED = Path(__file__).with_name("summary.json")


@dataclass(frozen=True)
class TwinSummary:
    """What `timm-asap list` shows of a twin, tags aside.

    Attributes:
        name: Name of the twin.
        parameters: Number of parameters.
        macs: Multiply-adds of the plain network for one image of `input_size`.
        added_macs: Multiply-adds that the operators add.
        converted: Strided layers that are alias-free.
        reasons: Why others stayed as they were, and how many for each reason.
        input_size: (channels, height, width).
    """

    name: str
    parameters: int
    macs: int
    added_macs: int
    converted: int
    input_size: tuple[int, int, int]
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Strided layers that stayed as they were."""
        return sum(self.reasons.values())


def build_on_meta(architecture: str, **kwargs: Any) -> nn.Module:
    """A model without data.

    Args:
        architecture: Any name of timm, without a tag.
        **kwargs: Keywords of `timm.create_model`.

    Raises:
        UserError: If timm knows no such architecture; names the closest matches.
    """
    if not timm.is_model(architecture):
        raise UserError(unknown_name("model", architecture, timm.list_models()))
    return _timm.build_on_meta(lambda: timm.create_model(architecture, **kwargs))


def dry_run(
    architecture: str, input_size: tuple[int, int, int] | None = None, **options: Any
) -> tuple[nn.Module, ConversionReport]:
    """What conversion would do to a plain architecture.

    Args:
        architecture: A plain architecture of timm or of this package.
        input_size: (channels, height, width); by default that of its pretrained configuration.
        **options: `layout`, `window`, `boundary` and `stem` of `timm_asap.convert`.

    Returns:
        The plain model, on the meta device, and the report.
    """
    model = build_on_meta(architecture, **({"in_chans": input_size[0]} if input_size else {}))
    size = input_size or tuple(pretrained_cfg_of(model)["input_size"])
    return model, convert(model, input_size=size, dry_run=True, **options)


def measure(twin: str) -> TwinSummary:
    """Build a twin's plain architecture on the meta device and measure it at its own input size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small maps: shown by `timm-asap convert`
        model, report = dry_run(plain_name(twin))
    return TwinSummary(
        name=twin,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=report.macs or 0,  # known, as the input size is
        added_macs=report.added_macs or 0,
        converted=len(report.converted),
        input_size=tuple(pretrained_cfg_of(model)["input_size"]),
        reasons=dict(Counter(site.reason for site in report.left)),
    )


def summarize(twin: str) -> TwinSummary:
    """The shipped numbers of a twin; measured where there are none, as for architectures newer than they are."""
    return _shipped().get(twin) or measure(twin)


def pretrained_tags(twin: str) -> list[str]:
    """Tags of a twin that have weights, default first: the plain architecture's, unless `is_shipped`."""
    return [name.partition(".")[2] for name, cfg in get_arch_pretrained_cfgs(twin).items() if cfg.has_weights]


def shown_tags(twin: str) -> str:
    """Tags of a twin as tables show them: a star for weights trained as the twin, a plus for adapted ones."""
    return ", ".join(tag + _MARKS[weights_state(f"{twin}.{tag}")] for tag in pretrained_tags(twin)) or "-"


def weights_state(name: str) -> str:
    """The state of a twin's weights, `architecture.tag`.

    Returns:
        "trained" as the twin, "adapted" from upstream's without labels, or "upstream": trained without ASAP.
    """
    if not is_shipped(name):
        return "upstream"
    return "adapted" if is_adapted(name) else "trained"


@dataclass(frozen=True)
class TagLicense:
    """The license and provenance of the weights of one tag, as timm states them.

    Attributes:
        name: `twin.tag`.
        license: None where timm states none.
        source: Where the weights are: their repository on the Hugging Face Hub, an address, or this package.
        origin: Where they were published first, as timm states it; None where it does not.
    """

    name: str
    license: str | None
    source: str | None
    origin: str | None


def licenses(twin: str) -> list[TagLicense]:
    """The licenses of a twin's weights, one for each tag that has some, default first. Nothing is guessed.

    Args:
        twin: Without a tag.
    """
    found = []
    for name, cfg in get_arch_pretrained_cfgs(twin).items():
        if cfg.has_weights:
            source = "timm_asap" if is_shipped(name) else cfg.hf_hub_id or cfg.url or None
            source = source if isinstance(source, str) else None
            stated = cfg.license if cfg.license not in (None, "", "unknown", "other") else None
            found.append(TagLicense(name, stated, source, cfg.origin_url))
    return found


@cache
def _shipped() -> dict[str, TwinSummary]:
    if not _SHIPPED.exists():  # before it is first written
        return {}
    rows = json.loads(_SHIPPED.read_text(encoding="utf-8"))
    return {row["name"]: TwinSummary(**{**row, "input_size": tuple(row["input_size"])}) for row in rows}


def write_shipped(summaries: Iterable[TwinSummary]) -> None:
    """Write `summary.json`, a line for each twin."""
    lines = ",\n".join(json.dumps(asdict(summary)) for summary in summaries)
    _SHIPPED.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    _shipped.cache_clear()


def matching_twins(pattern: str) -> list[str]:
    """Twins whose name matches a shell pattern; the suffix may be left out.

    Raises:
        UserError: If none matches; names the closest.
    """
    names = twin_names()
    found = [n for n in names if fnmatch.fnmatch(n, pattern) or fnmatch.fnmatch(plain_name(n), pattern)]
    if not found:
        raise UserError(unknown_name("twin", pattern, names))
    return found
