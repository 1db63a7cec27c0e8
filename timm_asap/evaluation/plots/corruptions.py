"""Accuracy by corruption and severity."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from timm_asap.evaluation.plots.records import Record, Result, clean_of, interval_band, model_names, results_of
from timm_asap.training.figures import legend_above, panels, series_style, styled

__all__ = ["draw_corruptions"]

_COLUMNS = 4
_PANEL_WIDTH = 2.6
# Severity 0 is the clean image.
_SEVERITIES = (0, 1, 2, 3, 4, 5)


@styled
def draw_corruptions(records: Sequence[Record]) -> Figure:
    """A panel per corruption, a line per model; the clean accuracy is severity 0.

    A panel of the mean comes first where several corruptions were measured, for models and severities that have all of
    them. Bands are the 95 % intervals of the record.

    Args:
        records: Evaluation records with corruption results.
    """
    names = list(dict.fromkeys(result["corruption"] for record in records for result in _corrupted(record)))
    with_mean = len(names) > 1
    figure, axes = panels(len(names) + with_mean, _COLUMNS, _PANEL_WIDTH)
    for number, (record, model) in enumerate(zip(records, model_names(records), strict=True)):
        curves = {name: _curve(record, name) for name in names}
        if with_mean:
            _draw_mean(axes[0], list(curves.values()), number, model)
        for axis, curve in zip(axes[with_mean:], curves.values(), strict=True):
            axis.plot(list(curve), [r["accuracy"] for r in curve.values()], label=model, **series_style(number))
            low, high = interval_band(list(curve.values()), "accuracy")
            axis.fill_between(list(curve), low, high, color=series_style(number)["color"], alpha=0.15, linewidth=0)

    approximate = {r["corruption"] for record in records for r in _corrupted(record) if r.get("approximate")}
    for axis, name in zip(axes[with_mean:], names, strict=True):
        axis.set_title(name.replace("_", " ") + (" *" if name in approximate else ""))
    if with_mean:
        axes[0].set_title(f"mean of these {len(names)}", fontweight="bold")
    _label(figure, axes, records, bool(approximate))
    legend_above(figure, axes[-1])
    return figure


def _corrupted(record: Record) -> list[Result]:
    return results_of(record, "corruption")


def _curve(record: Record, name: str) -> dict[int, Result]:
    """Result by severity, ascending."""
    curve = {result["severity"]: result for result in _corrupted(record) if result["corruption"] == name}
    clean = clean_of(record)
    if clean is not None and {clean["images"]} == {result["images"] for result in curve.values()}:
        curve[0] = clean  # of the same images
    return {severity: curve[severity] for severity in sorted(curve)}


def _draw_mean(axis: Axes, curves: list[dict[int, Result]], number: int, label: str) -> None:
    complete = [s for s in _SEVERITIES if all(s in curve for curve in curves)]
    means = [sum(curve[s]["accuracy"] for curve in curves) / len(curves) for s in complete]
    axis.plot(complete, means, label=label, **series_style(number))


def _label(figure: Figure, axes: list[Axes], records: Sequence[Record], some_approximate: bool) -> None:
    for axis in axes:
        axis.set_xticks(_SEVERITIES, ["clean", *map(str, _SEVERITIES[1:])])
        axis.set_xlim(-0.3, 5.3)
    tables = sorted({result["table"] for record in records for result in _corrupted(record)})
    note = f"severity ({' and '.join(tables)} parameters)"
    figure.supxlabel(note + ("   * approximates the original corruption" if some_approximate else ""), fontsize=9)
    figure.supylabel("accuracy (percent)", fontsize=9)
