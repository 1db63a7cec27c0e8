"""`timm-asap card RUN`: the model card of a run, made anew from its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from timm_asap.command_line import File, Folder, Name, parse


@dataclass(frozen=True)
class CardOptions:
    """Write the model card of a run from its records; what stands between the marks keep and /keep stays."""

    run: tyro.conf.Positional[Folder]
    """A run folder of train.py, or the folder of timm-asap heal."""
    license: Name | None = None
    """License of the weights, as the Hub spells it; by default that of the weights that the run started from, and mit
    for random ones."""
    against: File | None = None
    """evaluation.json of a model to compare with, such as the plain twin, or the folder that holds it."""
    repo: Name | None = None
    """Repository on the Hub that the lines of the card load the model from; by default the run folder."""
    output: File | None = None
    """File to write; by default README.md in the run folder."""
    overwrite: bool = False
    """Replace a card that was written by hand."""


def main(argv: Sequence[str]) -> None:
    """Write, and say where."""
    options = parse(CardOptions, argv, prog="timm-asap card")
    from timm_asap.hub.card import write_card  # torch and timm: not for the help

    path = write_card(
        options.run,
        options.license,
        against=options.against,
        repo=options.repo,
        output=options.output,
        overwrite=options.overwrite,
    )
    print(f"wrote {path}")
