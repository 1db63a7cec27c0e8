"""`timm-asap list [PATTERN]`: the twins, what they cost, and the pretrained weights they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

import timm_asap  # noqa: F401  registers the twins
from timm_asap.command_line import parse
from timm_asap.zoo.summary import TwinSummary, matching_twins, shown_tags, summarize


@dataclass(frozen=True)
class ListOptions:
    """List the alias-free twins with their parameters, multiply-adds, downsampling sites and pretrained tags."""

    pattern: tyro.conf.Positional[str] = "*"
    """A name, or a shell pattern such as 'resnet50*'; the suffix _asap may be left out."""


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    options = parse(ListOptions, argv, prog="timm-asap list")
    names = matching_twins(options.pattern)
    errors = Console(stderr=True)
    quiet = not errors.is_terminal
    summaries = [summarize(n) for n in track(names, "measuring", console=errors, transient=True, disable=quiet)]
    console = Console()
    if not console.is_terminal:
        # A file or a pipe has no width to fit: no name is cut, for grep to find.
        longest = max(len(s.name) + len(shown_tags(s.name)) for s in summaries)
        console = Console(width=max(120, longest + 80))
    console.print(_table(summaries))


def _table(summaries: Sequence[TwinSummary]) -> Table:
    plural = "" if len(summaries) == 1 else "s"
    table = Table(title=f"{len(summaries)} alias-free twin{plural}", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("params (M)", "GMACs", "+ %", "sites", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("input", no_wrap=True)
    table.add_column("pretrained tags (upstream; *: trained, +: adapted)")
    for s in summaries:
        table.add_row(
            s.name,
            f"{s.parameters / 1e6:.2f}",
            f"{s.macs / 1e9:.2f}",
            f"{100 * s.added_macs / s.macs:.1f}",
            str(s.converted),
            str(s.left),
            "x".join(map(str, s.input_size)),
            shown_tags(s.name),
        )
    return table
