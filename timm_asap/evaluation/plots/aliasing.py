"""Aliasing by layer: fractions of energy, and the spectra behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from timm_asap.evaluation.plots.robustness import Record, Result, model_names, results_of
from timm_asap.figures import GREY, legend_above, new_figure, panels, series_style, styled

__all__ = ["draw_aliasing", "draw_spectra"]

# Below this lies the square of what float32 and float64 round to; exact zeros are drawn here.
_FLOOR = 1e-17
# What a converted layer stays below.
_LIMIT = 1e-6
_COLUMNS = 4
_PANEL_WIDTH = 2.6


@styled
def draw_aliasing(records: Sequence[Record]) -> Figure:
    """A row per downsampling layer, a marker per model; hollow where conversion leaves the layer or cannot handle it.

    Args:
        records: Evaluation records with aliasing results.
    """
    sites = _sites(records)
    figure = new_figure(9.2, 0.26 * len(sites) + 1.5)
    axes = figure.subplots(1, 2, sharey=True)
    columns = (("above_nyquist", "energy above the new Nyquist frequency"), ("folded", "energy folded back"))
    for axis, (key, title) in zip(axes, columns, strict=True):
        for number, (record, model) in enumerate(zip(records, model_names(records), strict=True)):
            _draw_shares(axis, _by_site(record), sites, key, number, model, len(records))
        axis.axvspan(_FLOOR / 10, _LIMIT, color=GREY, alpha=0.1, linewidth=0)
        axis.set_xscale("log")
        axis.set_xlim(_FLOOR / 3, 3)
        axis.set_xticks([1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1], ["1e-15", "1e-12", "1e-9", "1e-6", "0.001", "1"])
        axis.set_title(title)
        axis.set_xlabel("share of energy (shaded: below 1e-6)")
    axes[0].set_yticks(range(len(sites)), [site or "(root)" for site in sites])
    axes[0].set_ylim(len(sites) - 0.5, -0.5)
    legend_above(figure, axes[0])
    return figure


@styled
def draw_spectra(records: Sequence[Record]) -> Figure:
    """A panel per downsampling layer: power by frequency of what is sampled, a line per model.

    Frequencies are in units of the new Nyquist frequency; what lies beyond 1 folds back.

    Args:
        records: Evaluation records with aliasing results.
    """
    sites = _sites(records)
    figure, axes = panels(len(sites), _COLUMNS, _PANEL_WIDTH, height=1.9)
    last = 1.0
    for number, (record, model) in enumerate(zip(records, model_names(records), strict=True)):
        results = _by_site(record)
        for axis, site in zip(axes, sites, strict=True):
            # a line for every model in every panel, so that any panel can make the legend
            spectrum = results[site]["spectrum"] if site in results else {"frequency": [], "power": []}
            power = [max(p, _FLOOR) for p in spectrum["power"]]
            axis.plot(spectrum["frequency"], power, label=model, **{**series_style(number), "markersize": 2.5})
            last = max([last, *spectrum["frequency"]])
    for axis, site in zip(axes, sites, strict=True):
        axis.axvspan(1, 2 * last, color=GREY, alpha=0.12, linewidth=0)
        axis.set_title(_short(site), fontsize=8)
        axis.set_yscale("log")
        axis.set_yticks([1e-16, 1e-12, 1e-8, 1e-4, 1], ["1e-16", "1e-12", "1e-8", "1e-4", "1"])
    axes[0].set_xlim(0, math.ceil(last))
    figure.supxlabel("frequency / new Nyquist frequency (shaded: folds back)", fontsize=9)
    figure.supylabel("power / mean power", fontsize=9)
    legend_above(figure, axes[0])
    return figure


def _by_site(record: Record) -> dict[str, Result]:
    return {result["site"]: result for result in results_of(record, "aliasing")}


def _sites(records: Sequence[Record]) -> list[str]:
    """The layers of all models, in the order of the first that has them."""
    return list(dict.fromkeys(site for record in records for site in _by_site(record)))


def _draw_shares(
    axis: Axes, results: dict[str, Result], sites: list[str], key: str, number: int, label: str, models: int
) -> None:
    style = {**series_style(number), "linestyle": ""}
    dodge = 0.2 * (number - (models - 1) / 2)
    for hollow in (False, True):
        states = [results[s]["status"] if s in results else None for s in sites]
        rows = [i for i, state in enumerate(states) if state and (state in ("left", "not handled")) == hollow]
        shares = [max(results[sites[row]][key], _FLOOR) for row in rows]
        face: dict[str, Any] = {"markerfacecolor": "white"} if hollow else {"label": label}
        axis.plot(shares, [row + dodge for row in rows], **style, **face)


def _short(site: str) -> str:
    """A name that fits over a panel: its end, which tells layers apart."""
    return site if len(site) <= 34 else "..." + site[-31:]
