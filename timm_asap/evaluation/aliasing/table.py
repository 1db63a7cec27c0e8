"""The aliasing of several models, site by site, as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

__all__ = ["aliasing_table"]


def aliasing_table(results: dict[str, list[dict[str, Any]]]) -> Table:
    """Shares of energy above the new Nyquist frequency and folded back: a row per site, two columns per model.

    Args:
        results: By the model's name: its aliasing results as evaluation.json holds them; others are passed over. A
            plain network and its twin, whose sites have the same names, are the table before and after conversion.
    """
    models = {
        name: {row["site"]: row for row in rows if row["measure"] == "aliasing"} for name, rows in results.items()
    }
    table = Table(
        title="Share of energy above the new Nyquist frequency, and share that is folded back", title_justify="left"
    )
    table.add_column("site", overflow="fold")
    table.add_column("layer", overflow="fold")
    for name in models:
        table.add_column(f"{name}\nabove", justify="right")
        table.add_column("\nfolded", justify="right")
    layers = {site: row["layer"] for rows in models.values() for site, row in reversed(rows.items())}
    order = dict.fromkeys(site for rows in models.values() for site in rows)
    for site in order:
        cells = [_cell(rows.get(site), key) for rows in models.values() for key in ("above_nyquist", "folded")]
        states = {rows[site]["status"] for rows in models.values() if site in rows}
        shown = "".join(f" ({status})" for status in ("left", "not handled") if status in states)
        table.add_row(site or "(root)", layers[site] + shown, *cells)
    return table


def _cell(row: dict[str, Any] | None, key: str) -> str:
    if row is None:
        return "-"
    share = row[key]
    return f"{share:.4f}" if share >= 5e-5 or share == 0 else f"{share:.0e}"
