"""`timm-asap compare A.json B.json ...`: what sets models apart, wins and losses alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from timm_asap.command_line import File, metavar, parse
from timm_asap.errors import UserError, check_seed
from timm_asap.screen import Column, ScreenTable, print_lines, print_text, screen
from timm_asap.text import plain_text

if TYPE_CHECKING:
    from rich.console import Console

    from timm_asap.evaluation.comparison import Comparison, Row

_COLORS = {"win": "green", "loss": "red", "tie": "dim", None: None}


@dataclass(frozen=True)
class CompareOptions:
    """Compare models with the first one: differences with 95 % bootstrap intervals, paired by image."""

    records: tyro.conf.Positional[Annotated[tuple[str, ...], metavar("RECORD RECORD [RECORD ...]")]]
    """Two evaluation.json or more, or the folders that hold them; the first is the baseline."""
    severities: bool = False
    """Show every severity of a corruption, not their mean alone."""
    resamples: int = 10_000
    """Resamples of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap."""
    output: File | None = None
    """JSON file to write with every row."""
    overwrite: bool = False
    """Replace that file."""

    def __post_init__(self) -> None:
        if len(self.records) < 2:
            raise UserError(f"expected two records or more, the baseline first, got {len(self.records)}")
        if self.resamples < 1000:
            raise UserError(f"--resamples: expected 1000 or more, got {self.resamples}")
        check_seed(self.seed)
        if self.output is not None and Path(self.output).exists() and not self.overwrite:
            raise UserError(f"--output {self.output} is there already: --overwrite replaces it")


def main(argv: Sequence[str]) -> None:
    """Print the tables, and write the file."""
    options = parse(CompareOptions, argv, prog="timm-asap compare")
    # torch: not for the help
    from timm_asap._io import write_json
    from timm_asap.evaluation.comparison import METHOD, compare
    from timm_asap.evaluation.record import read_record

    baseline, *others = [read_record(path) for path in options.records]
    comparisons = [compare(baseline, other, resamples=options.resamples, seed=options.seed) for other in others]
    console = screen()
    for comparison in comparisons:
        _print(comparison, options.severities, console)
    print_text(
        f"{METHOD}, {options.resamples:,} resamples, seed {options.seed}; not corrected for their number", console
    )
    if options.output is not None:
        content = {
            "version": 1,
            "method": METHOD,
            "resamples": options.resamples,
            "seed": options.seed,
            "comparisons": [comparison.record() for comparison in comparisons],
        }
        write_json(options.output, content)
        print(f"wrote {options.output}")


def _print(comparison: Comparison, severities: bool, console: Console) -> None:
    from timm_asap.evaluation.table import measurement_name

    how = "paired by image" if comparison.paired else f"not paired by image: {comparison.unpaired_because}"
    model, baseline = plain_text(comparison.model), plain_text(comparison.baseline)
    print_lines(["", f"{model} against {baseline}, {how}"], console, [None, "bold"])
    table = ScreenTable(
        [
            Column("measurement"),
            Column(baseline, right=True, short="baseline", drop=0),
            Column(model, right=True, short="model"),
            Column("difference", right=True, short="diff."),
            Column("95 % interval", right=True),
            Column("verdict"),
        ]
    )
    for row in comparison.rows:
        if severities or row.measure != "corruption" or row.entries > 1 or not _has_mean(row, comparison):
            table.add(*_cells(row, measurement_name(row.id, row.entries)), style=_COLORS[row.verdict])
    table.print(console)
    wins, losses, ties = (comparison.count(verdict) for verdict in ("win", "loss", "tie"))
    counted = ", ".join((_count(wins, "win"), _count(losses, "loss", "losses"), _count(ties, "tie")))
    total = _count(wins + losses + ties, "measurement")
    print_text(f"{model}: {counted} of {total}, each severity and eps counted", console)
    if comparison.left_out:
        name, why = next(iter(comparison.left_out.items()))
        more = f", and {len(comparison.left_out) - 1} more" if len(comparison.left_out) > 1 else ""
        print_text(f"not compared: {name} ({why}){more}", console)


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _has_mean(row: Row, comparison: Comparison) -> bool:
    """Whether the table shows the corruption of a severity as the mean of several."""
    corruption = row.id.rpartition("/")[0]
    return any(other.id == corruption for other in comparison.rows)


def _cells(row: Row, name: str) -> list[str]:
    if row.measure == "aliasing":
        values = [f"{value:.2e}" for value in (row.baseline, row.model)]
        return [name, *values, f"{row.difference:+.2e}", "", ""]
    interval = "" if row.interval is None else "{:+.2f} to {:+.2f}".format(*row.interval)
    return [name, f"{row.baseline:.2f}", f"{row.model:.2f}", f"{row.difference:+.2f}", interval, row.verdict or ""]
