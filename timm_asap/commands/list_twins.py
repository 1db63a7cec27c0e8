"""`timm-asap list [PATTERN]`: the twins, what they cost, and the pretrained weights they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from timm_asap.command_line import metavar, parse
from timm_asap.screen import Column, ProgressDisplay, ScreenTable, screen


@dataclass(frozen=True)
class ListOptions:
    """List the alias-free twins with their parameters, multiply-adds, downsampling sites and pretrained tags."""

    pattern: tyro.conf.Positional[Annotated[str, metavar("[PATTERN]")]] = "*"
    """A name, or a shell pattern such as 'resnet50*'; the suffix _asap may be left out."""


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    options = parse(ListOptions, argv, prog="timm-asap list")
    from timm_asap.zoo.summary import matching_twins, shown_tags, summarize  # torch and timm: not for the help

    names = matching_twins(options.pattern)
    table = ScreenTable(
        [
            Column("name"),
            Column("params (M)", right=True, drop=4),
            Column("GMACs", right=True, drop=5),
            Column("+ %", right=True, drop=3),
            Column("sites", right=True, drop=2),
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
