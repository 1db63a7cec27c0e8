"""`timm-asap list [PATTERN]`: the twins, what they cost, and the pretrained weights they take, with their licenses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from timm_asap.command_line import metavar, parse
from timm_asap.screen import Column, ProgressDisplay, ScreenTable, screen

_UNSTATED = "not stated by timm"


@dataclass(frozen=True)
class ListOptions:
    """List the alias-free twins with their parameters, multiply-adds, downsampling layers and pretrained tags."""

    pattern: tyro.conf.Positional[Annotated[str, metavar("[PATTERN]")]] = "*"
    """A name, or a shell pattern such as 'resnet50*'; the suffix _asap may be left out."""

    license: bool = False
    """List the license of each tag's weights instead, where they are and where they come from, as timm states it."""


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    words = ["--license" if word == "--licence" else word for word in argv]  # both spellings
    options = parse(ListOptions, words, prog="timm-asap list")
    from timm_asap.zoo.summary import matching_twins, shown_tags, summarize  # torch and timm: not for the help

    names = matching_twins(options.pattern)
    if options.license:
        _print_licenses(names)
        return
    table = ScreenTable(
        [
            Column("name"),
            Column("params (M)", right=True, drop=4),
            Column("GMACs", right=True, drop=5),
            Column("+ %", right=True, drop=3),
            Column("layers", right=True, drop=2),
            Column("left", right=True, drop=1),
            Column("input", drop=0),
            Column("tags", wraps=True),
        ]
    )
    with ProgressDisplay(len(names), name="timm-asap list", after=5) as display:
        for name in names:
            display.begin("measuring")
            s = summarize(name)
            table.add(
                name,
                f"{s.parameters / 1e6:.2f}",
                f"{s.macs / 1e9:.2f}",
                f"{100 * s.added_macs / s.macs:.1f}",
                str(s.converted),
                str(s.left),
                "x".join(map(str, s.input_size)),
                shown_tags(name),
            )
            display.advance()
    console = screen()
    console.print(
        f"{len(names)} alias-free twin{'' if len(names) == 1 else 's'}; tags of pretrained weights: upstream's,"
    )
    console.print("trained without ASAP; trained with it (*); or adapted to it without labels (+)")
    table.print(console)


def _print_licenses(names: Sequence[str]) -> None:
    from timm_asap.zoo.summary import licenses

    table = ScreenTable(
        [Column("weights"), Column("license"), Column("at", drop=1, wraps=True), Column("from", drop=2, wraps=True)]
    )
    found = [row for name in names for row in licenses(name)]
    for row in found:
        table.add(row.name, row.license or _UNSTATED, row.source or _UNSTATED, row.origin or _UNSTATED)
    console = screen()
    console.print(
        f"{len(found)} tags of pretrained weights of {len(names)} twin{'' if len(names) == 1 else 's'}; the twin of "
        "weights keeps their license"
    )
    table.print(console)
