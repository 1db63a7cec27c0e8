"""The study's figures."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from benchmarks.study.plan import VARIANTS
from benchmarks.study.results import StudyRecord
from benchmarks.study.tables import group_difference
from timm_asap.evaluation import CORRUPTIONS
from timm_asap.figures import GREY, legend_above, new_figure, panels, series_style, styled

#: The variants that are compared corruption by corruption, in this order.
_DRAWN = ("asap", "asap_paper", "flc", "blur")


@styled
def draw_differences(records: dict[str, list[StudyRecord]]) -> Figure:
    """What each variant gains or loses against the plain stride, by corruption, with 95 % intervals.

    Args:
        records: The networks by variant.
    """
    figure = new_figure(7.2, 7.6)
    axis = figure.subplots()
    axis.axvline(0, color=GREY, linewidth=1)
    drawn = [name for name in _DRAWN if name in records]
    for number, name in enumerate(drawn):
        found = [group_difference(records[name], records["plain"], (f"corruption/{c}/",)) for c in CORRUPTIONS]
        gains, lows, highs = np.array([(d.gain, d.low, d.high) for d in found]).T
        heights = np.arange(len(CORRUPTIONS)) + 0.2 * (number - (len(drawn) - 1) / 2)
        style = _style(name) | {"linestyle": "none"}
        axis.errorbar(gains, heights, xerr=[gains - lows, highs - gains], label=VARIANTS[name].title, **style)
        for height, d in zip(heights, found, strict=True):
            if len(d.by_seed) > 1:
                axis.plot(d.by_seed, [height] * len(d.by_seed), "|", color=style["color"], markersize=7)
    axis.set_yticks(range(len(CORRUPTIONS)), [name.replace("_", " ") for name in CORRUPTIONS])
    axis.invert_yaxis()
    axis.set_xlabel("points against the plain stride: mean, 95 % interval over images, and | each seed")
    legend_above(figure, axis)
    return figure


@styled
def draw_eps_curves(records: dict[str, list[StudyRecord]]) -> Figure:
    """What each variant gains or loses against the plain stride under FGSM and PGD, over eps; means over seeds.

    Args:
        records: The networks by variant.
    """
    figure, axes = panels(2, 2, width=4.4, height=3.4)
    plain = records["plain"]
    for axis, (attack, title) in zip(axes, (("fgsm", "FGSM"), ("pgd", "PGD, 20 steps")), strict=True):
        axis.axhline(0, color=GREY, linewidth=1)
        shown = [r for r in plain[0].results("robustness", "attack") if r["attack"] == attack]
        for name in (name for name in VARIANTS if name in records and name != "plain"):
            gains = [group_difference(records[name], plain, (r["id"],)).gain for r in shown]
            axis.plot([255 * r["eps"] for r in shown], gains, label=VARIANTS[name].title, **_style(name))
        axis.set_xscale("log", base=2)
        axis.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        axis.set_xlabel("eps in 1/255, l-inf")
        axis.set_title(title)
    axes[0].set_ylabel("points against the plain stride")
    legend_above(figure, axes[0])
    return figure


def _style(name: str) -> dict[str, str]:
    """A variant looks the same in every figure; the plain stride is their line at 0."""
    return series_style(list(VARIANTS).index(name) - 1)
