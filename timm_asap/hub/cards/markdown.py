"""Tables and numbers as a card writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["eps_text", "interval_text", "percent", "table"]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table.

    Args:
        columns: Headings.
        rows: Cells, as many as there are headings.
        text_columns: How many columns, from the left, hold text; the others are set to the right.
    """
    marks = ["---" if place < text_columns else "---:" for place in range(len(columns))]
    lines = [_line(columns), f"|{'|'.join(marks)}|", *(_line(row) for row in rows)]
    return "\n".join(lines)


def percent(value: float, interval: Sequence[float] | None = None) -> str:
    """Percent with two decimals, and its interval where there is one."""
    return f"{value:.2f}" if interval is None else f"{value:.2f} {interval_text(interval)}"


def interval_text(interval: Sequence[float], sign: str = "") -> str:
    """An interval with two decimals; `sign` "+" shows that of positive ends, too."""
    low, high = interval
    return f"[{low:{sign}.2f}, {high:{sign}.2f}]"


def eps_text(value: float, norm: str) -> str:
    """A radius on the [0, 1] scale: in grey levels where it bounds each pixel."""
    return f"{255 * value:.4g}/255" if norm == "linf" else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
