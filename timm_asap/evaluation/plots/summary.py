"""All that was measured, at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from timm_asap.evaluation.plots.records import Record, Result, clean_of, model_names, results_of
from timm_asap.training.figures import legend_above, new_figure, series_style, styled

__all__ = ["draw_summary"]

# As Hendrycks and Dietterich (arXiv 1903.12261) group them; those beyond the 15 beside their likes.
_GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}
_ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "apgd-ce": "APGD-CE", "square": "Square", "autoattack": "AutoAttack"}
# From the weakest: of several attacks the strongest is shown.
_STRENGTH = tuple(_ATTACKS)


@styled
def draw_summary(records: Sequence[Record]) -> Figure:
    """A bar per measurement and model: clean, groups of corruptions, the strongest attack by eps, shifts by a pixel.

    Args:
        records: Evaluation records.
    """
    bars = [_bars(record) for record in records]
    names = list(dict.fromkeys(name for one in bars for name in one))
    figure = new_figure(8.0, 0.7 + (0.16 + 0.14 * len(records)) * max(3, len(names)))
    axis = figure.subplots()
    height = 0.8 / len(records)
    for number, (one, model) in enumerate(zip(bars, model_names(records), strict=True)):
        rows = [row + (number - (len(records) - 1) / 2) * height for row, name in enumerate(names) if name in one]
        values = [one[name] for name in names if name in one]
        axis.barh(rows, values, height=0.92 * height, color=series_style(number)["color"], label=model)
        for row, value in zip(rows, values, strict=True):
            axis.annotate(f"{value:.2f}", (value, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, 109)
    axis.set_xticks([0, 20, 40, 60, 80, 100])
    axis.set_xlabel("percent")
    axis.grid(visible=False, axis="y")
    legend_above(figure, axis)
    return figure


def _bars(record: Record) -> dict[str, float]:
    bars = {}
    if clean := clean_of(record):
        bars["clean accuracy"] = clean["accuracy"]
    corrupted = results_of(record, "corruption")
    for group, members in _GROUPS.items():
        found = [result for result in corrupted if result["corruption"] in members]
        if found:
            kinds = len({result["corruption"] for result in found})
            bars[f"{group} ({kinds} {'corruption' if kinds == 1 else 'corruptions'})"] = _mean(found, "accuracy")
    bars |= _attacked(results_of(record, "attack"))
    for result in results_of(record, "shift"):
        if result["pixels"] == 1:
            bars[f"same answer, {result['kind']} shift by 1 px"] = result["consistency"]
    return bars


def _attacked(results: Sequence[Result]) -> dict[str, float]:
    shown = [r for r in results if not (r["norm"] == "linf" and r["eps"] >= 1)]  # that eps is a check, no measurement
    if not shown:
        return {}
    last = max(shown, key=lambda r: _STRENGTH.index(r["attack"]) if r["attack"] in _STRENGTH else -1)
    same = sorted((r for r in shown if (r["attack"], r["norm"]) == (last["attack"], last["norm"])), key=_eps)
    name = _ATTACKS.get(last["attack"], last["attack"])
    return {f"{name}, eps {_shown(r)}": r["accuracy"] for r in same}


def _eps(result: Result) -> float:
    return result["eps"]


def _shown(result: Result) -> str:
    return f"{255 * result['eps']:.3g}/255" if result["norm"] == "linf" else f"{result['eps']:.3g} (l2)"


def _mean(results: Sequence[Result], value: str) -> float:
    return sum(result[value] for result in results) / len(results)
