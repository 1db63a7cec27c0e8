"""Plots of accuracy by corruption and severity, by the size of the perturbation, and by the distance of a shift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from timm_asap.figures import legend_above, new_figure, panels, series_style, styled
from timm_asap.text import plain_text

__all__ = [
    "Record",
    "Result",
    "clean_of",
    "draw_attacks",
    "draw_corruptions",
    "draw_shift",
    "interval_band",
    "labeled",
    "model_names",
    "results_of",
]


#: An evaluation.json.
Record = dict[str, Any]
#: One entry of its `results`.
Result = dict[str, Any]


def model_names(records: Sequence[Record]) -> list[str]:
    """The models' names without prefix and folder, numbered where two are the same."""
    names = [plain_text(Path(record["model"]["name"].rpartition(":")[2]).name, 80) for record in records]
    counts, seen = Counter(names), Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return unique


def labeled(model: str, results: Sequence[Result]) -> str:
    """A curve's name: the model, and on how many images."""
    counts = sorted({result["images"] for result in results if "images" in result})
    return f"{model} ({', '.join(f'{count:,}' for count in counts)} images)" if counts else model


def results_of(record: Record, measure: str) -> list[Result]:
    """The results of one measure, in the record's order."""
    return [result for result in record["results"] if result["measure"] == measure]


def clean_of(record: Record) -> Result | None:
    """The result on images as they are, if it was measured."""
    return next(iter(results_of(record, "clean")), None)


def interval_band(results: Sequence[Result], value: str) -> tuple[list[float], list[float]]:
    """Lower and upper ends of the results' intervals; the value itself where none was recorded."""
    ends = [result.get("interval") or [result[value]] * 2 for result in results]
    return [low for low, _ in ends], [high for _, high in ends]


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
        model = labeled(model, _corrupted(record))
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


_TITLES = {"fgsm": "FGSM", "pgd": "PGD", "apgd-ce": "APGD-CE", "autoattack": "AutoAttack", "square": "Square"}
_NORMS = {"linf": "l-inf", "l2": "l2"}
_ATTACKS_PANEL_WIDTH = 3.4
_ATTACKS_COLUMNS = 3

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
    columns = min(_ATTACKS_COLUMNS, max(1, len(attacks)))
    rows = -(-len(attacks) // columns)
    figure = new_figure(max(4.8, columns * _ATTACKS_PANEL_WIDTH), 2.7 * rows + 0.6)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for spare in axes[len(attacks) :]:
        spare.remove()
    for axis, attack in zip(axes, attacks, strict=False):
        eps = set()
        for number, (record, model) in enumerate(zip(records, model_names(records), strict=True)):
            curve = sorted((r for r in _drawn(record) if _attack(r) == attack), key=lambda result: result["eps"])
            eps |= {result["eps"] for result in curve}
            images = {result["images"] for result in curve}
            _draw(axis, curve, _start(record, images), number, labeled(model, curve))
        _attacks_label(axis, attack, sorted(eps))
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


def _attacks_label(axis: Axes, attack: _Attack, eps: list[float]) -> None:
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
            label = labeled(model, results_of(record, "shift"))
            axis.plot(x, [result["consistency"] for result in curve], label=label, **series_style(number))
            low, high = interval_band(curve, "consistency")
            axis.fill_between(x, low, high, color=series_style(number)["color"], alpha=0.15, linewidth=0)
        axis.set_title(f"{kind} shift")
        axis.set_xlabel("pixels")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(pixels), [f"{p:g}" for p in sorted(pixels)])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("same prediction (percent)")
    legend_above(figure, axes[0])
    return figure
