"""Shift consistency over the distance."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from timm_asap.evaluation.plots.records import Record, interval_band, labelled, model_names, results_of
from timm_asap.training.figures import legend_above, new_figure, series_style, styled

__all__ = ["draw_shift"]


@styled
def draw_shift(records: Sequence[Record]) -> Figure:
    """A panel per kind of shift, a line per model. Bands are the 95 % intervals of the record.

    Args:
        records: Evaluation records with shift results.
    """
    kinds = list(dict.fromkeys(result["kind"] for record in records for result in results_of(record, "shift")))
    figure = new_figure(max(4.8, 3.4 * len(kinds)), 3.2)
    axes = list(figure.subplots(1, len(kinds), squeeze=False, sharey=True).flat)
    for axis, kind in zip(axes, kinds, strict=True):
        pixels = set()
        for number, (record, model) in enumerate(zip(records, model_names(records), strict=True)):
            curve = sorted(
                (result for result in results_of(record, "shift") if result["kind"] == kind),
                key=lambda result: result["pixels"],
            )
            x = [result["pixels"] for result in curve]
            pixels.update(x)
            label = labelled(model, results_of(record, "shift"))
            axis.plot(x, [result["consistency"] for result in curve], label=label, **series_style(number))
            low, high = interval_band(curve, "consistency")
            axis.fill_between(x, low, high, color=series_style(number)["color"], alpha=0.15, linewidth=0)
        axis.set_title(f"{kind} shift")
        axis.set_xlabel("pixels")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(pixels), [f"{p:g}" for p in sorted(pixels)])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("same answer (percent)")
    legend_above(figure, axes[0])
    return figure
