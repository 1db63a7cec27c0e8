"""`timm-asap convert ARCH`: what conversion does to an architecture, layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

import timm_asap  # noqa: F401  registers the low-resolution networks
from timm_asap.command_line import parse
from timm_asap.errors import UserError
from timm_asap.report import ConversionReport, Site
from timm_asap.zoo import AsapOptions, is_twin, plain_name
from timm_asap.zoo.summary import dry_run

_STEM = {"auto": "auto", "true": True, "false": False}


@dataclass(frozen=True)
class ConvertOptions:
    """Show what conversion does to every strided layer of an architecture, and what it costs."""

    architecture: tyro.conf.Positional[str]
    """Name of a plain architecture of timm, or of its twin, without a tag."""
    dry_run: bool = False
    """Show the table alone. It is all this command does so far: say so."""
    layout: str = "preserve"
    """preserve or paper."""
    window: str = "asap"
    """asap, hamming or flc."""
    boundary: str = "circular"
    """circular, reflect or zero."""
    stem: Annotated[str, tyro.conf.arg(metavar="auto|true|false")] = "auto"
    """Whether the first layer of the image is converted; auto: where its stride is 2 or 3."""
    input_size: tuple[int, int, int] | None = None
    """Channels, height and width of an image; by default those of the architecture."""


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    options = parse(ConvertOptions, argv, prog="timm-asap convert")
    if options.stem not in _STEM:
        raise UserError(f"--stem: expected auto, true or false, got {options.stem!r}")
    stem = _STEM[options.stem]
    try:
        AsapOptions(options.window, options.boundary, options.layout, stem)
    except ValueError as error:
        raise UserError(str(error)) from error
    name = plain_name(options.architecture) if is_twin(options.architecture) else options.architecture
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # every note is a line of its own below the table
        model, report = dry_run(
            name,
            options.input_size,
            layout=options.layout,
            window=options.window,
            boundary=options.boundary,
            stem=stem,
        )
    size = options.input_size or tuple(model.pretrained_cfg["input_size"])
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(_table(name, size, report))
    for site in report.sites:
        if site.note:
            console.print(f"warning: {site.name}: {site.note}", highlight=False)


def _table(name: str, size: Sequence[int], report: ConversionReport) -> Table:
    total = f"{report.macs / 1e9:.2f} GMACs, {report.added_macs / 1e6:.1f} M more"
    title = f"{name} at {'x'.join(map(str, size))}: {total} ({100 * report.added_macs / report.macs:.1f} %)"
    table = Table(title=title, title_justify="left")
    for heading in ("layer", "was", "becomes, or why it is left"):
        table.add_column(heading)
    table.add_column("map", justify="right", no_wrap=True)
    table.add_column("added MACs", justify="right", no_wrap=True)
    for site in report.sites:
        table.add_row(
            site.name or "(root)",
            site.layer,
            site.becomes or f"left: {site.reason}",
            "x".join(map(str, site.input_size)) if site.input_size else "not run",
            _cost(site),
        )
    return table


def _cost(site: Site) -> str:
    return "-" if site.added_macs is None else f"{site.added_macs / 1e6:.2f} M"
