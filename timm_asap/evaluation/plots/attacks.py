"""Robust accuracy over the size of the perturbation."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from timm_asap.evaluation.plots.records import Record, Result, clean_of, interval_band, model_names, results_of
from timm_asap.training.figures import legend_above, new_figure, series_style, styled

__all__ = ["draw_attacks"]

_TITLES = {"fgsm": "FGSM", "pgd": "PGD", "apgd-ce": "APGD-CE", "autoattack": "AutoAttack", "square": "Square"}
_NORMS = {"linf": "l-inf", "l2": "l2"}
_PANEL_WIDTH = 3.4
_COLUMNS = 3

#: (attack, norm, steps, restarts)
_Attack = tuple[str, str, "int | None", "int | None"]


@styled
def draw_attacks(records: Sequence[Record]) -> Figure:
    """A panel per attack, a line per model; eps 0 is the accuracy of the same images before the attack.

    An eps of the whole pixel scale is a check for gradient masking and no measurement: it is not drawn. Bands are the
    95 % intervals of the record.

    Args:
        records: Evaluation records with attack results.
    """
    attacks = list(dict.fromkeys(_attack(result) for record in records for result in _drawn(record)))
    columns = min(_COLUMNS, max(1, len(attacks)))
    rows = -(-len(attacks) // columns)
    figure = new_figure(max(4.8, columns * _PANEL_WIDTH), 2.7 * rows + 0.6)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for spare in axes[len(attacks) :]:
        spare.remove()
    for axis, attack in zip(axes, attacks, strict=False):
        eps = set()
        for number, (record, model) in enumerate(zip(records, model_names(records), strict=True)):
            curve = sorted((r for r in _drawn(record) if _attack(r) == attack), key=lambda result: result["eps"])
            eps |= {result["eps"] for result in curve}
            images = {result["images"] for result in curve}
            label = f"{model} ({', '.join(f'{n:,}' for n in sorted(images))} images)" if images else model
            _draw(axis, curve, _start(record, images), number, label)
        _label(axis, attack, sorted(eps))
    for axis in axes[: len(attacks) : columns]:
        axis.set_ylabel("robust accuracy (percent)")
    legend_above(figure, axes[0])
    return figure


def _drawn(record: Record) -> list[Result]:
    return [r for r in results_of(record, "attack") if not (r["norm"] == "linf" and r["eps"] >= 1)]


def _attack(result: Result) -> _Attack:
    return (result["attack"], result["norm"], result.get("steps"), result.get("restarts"))


def _start(record: Record, attacked: set[int]) -> Result | None:
    """Where a curve starts: the attacked images as they are, never others beside them."""
    starts = (record.get("summary", {}).get("attacked_clean"), clean_of(record))
    return next((start for start in starts if start is not None and attacked == {start["images"]}), None)


def _draw(axis: Axes, curve: list[Result], clean: Result | None, number: int, label: str) -> None:
    points = [{**clean, "eps": 0.0}, *curve] if clean and curve else curve
    eps = [_shown(result["eps"], curve[0]["norm"]) for result in points]
    axis.plot(eps, [result["accuracy"] for result in points], label=label, **series_style(number))
    low, high = interval_band(points, "accuracy")
    axis.fill_between(eps, low, high, color=series_style(number)["color"], alpha=0.15, linewidth=0)


def _shown(eps: float, norm: str) -> float:
    """In 1/255 for the maximum norm, as the field names it; on the pixel scale for the l2 norm."""
    return 255 * eps if norm == "linf" else eps


def _label(axis: Axes, attack: _Attack, eps: list[float]) -> None:
    name, norm, steps, restarts = attack
    details = [f"{count} {unit}" for count, unit in ((steps, "steps"), (restarts, "restarts")) if (count or 1) > 1]
    axis.set_title(", ".join([_TITLES.get(name, name), *details]))
    axis.set_xlabel("eps in 1/255, l-inf" if norm == "linf" else f"eps, {_NORMS.get(norm, norm)}, pixels in [0, 1]")
    shown = [_shown(e, norm) for e in eps if e > 0]
    if shown:
        # The smallest eps lies one step from 0, every doubling another: small eps are what the curve is for.
        axis.set_xscale("symlog", base=2, linthresh=shown[0], linscale=1)
        axis.set_xticks([0, *shown], [f"{e:.3g}" for e in (0, *shown)])
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(bottom=0)
