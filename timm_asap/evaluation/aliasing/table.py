"""The aliasing of several models, layer by layer, as a table for the terminal."""

from __future__ import annotations

from typing import Any

from timm_asap.screen import Column, ScreenTable

__all__ = ["aliasing_table"]


def aliasing_table(results: dict[str, list[dict[str, Any]]]) -> ScreenTable:
    """Shares of energy above the new Nyquist frequency and folded back: a row per layer, two columns per model.

    Args:
        results: By the model's name: its aliasing results as evaluation.json holds them; others are passed over. A
            plain network and its twin, whose layers have the same names, are the table before and after conversion.
    """
    models = {
        name: {row["site"]: row for row in rows if row["measure"] == "aliasing"} for name, rows in results.items()
    }
    table = ScreenTable(
        [
            Column("site"),
            Column("layer", wraps=True, drop=0),
            *(column for number, name in enumerate(models, 1) for column in _columns(name, number, len(models))),
        ]
    )
    layers = {site: row["layer"] for rows in models.values() for site, row in reversed(rows.items())}
    order = dict.fromkeys(site for rows in models.values() for site in rows)
    for site in order:
        cells = [_cell(rows.get(site), key) for rows in models.values() for key in ("above_nyquist", "folded")]
        states = {rows[site]["status"] for rows in models.values() if site in rows}
        shown = "".join(f" ({status})" for status in ("left", "not handled") if status in states)
        table.add(site or "(root)", layers[site] + shown, *cells)
    return table


def _columns(name: str, number: int, models: int) -> list[Column]:
    if models == 1:
        return [Column("above", right=True), Column("folded", right=True)]
    return [Column(f"{name}: {what}", right=True, short=f"({number}) {what}") for what in ("above", "folded")]


def _cell(row: dict[str, Any] | None, key: str) -> str:
    if row is None:
        return "-"
    share = row[key]
    return f"{share:.4f}" if share >= 5e-5 or share == 0 else f"{share:.0e}"
