"""Tables of the generated pages."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: int | None = None) -> str:
    """A Markdown table.

    Args:
        heads: Of the columns.
        rows: Cells.
        numbers: How many columns, at the right, hold numbers; by default all but the first.
    """
    numbers = len(heads) - 1 if numbers is None else numbers
    rule = "|" + "---|" * (len(heads) - numbers) + "---:|" * numbers
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def mean_and_sd(values: Iterable[float]) -> str:
    """Mean and, of several, sample standard deviation: 91.20 ± 0.31; a dash of none."""
    values = list(values)
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
