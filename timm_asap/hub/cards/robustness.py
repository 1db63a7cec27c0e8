"""What a model does with attacked and shifted images, where it aliases, and what tells it from a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from timm_asap.evaluation.table import measurement_name
from timm_asap.hub.cards.accuracy import of_measure
from timm_asap.hub.cards.comparison import shown_rows
from timm_asap.hub.cards.markdown import eps_text, interval_text, percent, table
from timm_asap.hub.cards.records import RunRecords

__all__ = [
    "aliasing_table",
    "attack_settings",
    "attack_table",
    "clean_accuracy_of_attacked",
    "comparison_table",
    "left_out_table",
    "shift_table",
]


def attack_settings(result: Mapping[str, Any]) -> str:
    """What ran, besides the attack's name, norm and eps."""
    parts = []
    if result["steps"] is not None:
        steps = f"{result['steps']:,} {'step' if result['steps'] == 1 else 'steps'}"
        size = result["step_size"]
        parts.append(steps if size is None else f"{steps} of {eps_text(size, result['norm'])}")
    if result["restarts"] is not None:
        parts.append(f"{result['restarts']} {'start' if result['restarts'] == 1 else 'starts'}")
    return ", ".join((*parts, f"seed {result['seed']}"))


def attack_table(records: RunRecords) -> str:
    """Accuracy under each attack at each eps."""
    rows = []
    for result in of_measure(records, "attack"):
        star = " *" if result["warnings"] else ""
        rows.append(
            (
                f"{result['attack']}{star}",
                result["norm"],
                attack_settings(result),
                result["version"],
                eps_text(result["eps"], result["norm"]),
                f"{result['images']:,}",
                percent(result["accuracy"]),
                interval_text(result["interval"]),
            )
        )
    columns = ("Attack", "Norm", "Settings", "By", "eps", "Images", "Accuracy (%)", "95 % interval")
    return table(columns, rows, text_columns=4)


def shift_table(records: RunRecords) -> str:
    """How many images keep their class when they move."""
    rows = [
        (
            result["kind"],
            f"{result['pixels']:g}",
            f"{result['images']:,}",
            percent(result["consistency"]),
            interval_text(result["interval"]),
        )
        for result in of_measure(records, "shift")
    ]
    return table(("Shift", "Pixels", "Images", "Same class (%)", "95 % interval"), rows)


def aliasing_table(records: RunRecords) -> str:
    """The energy that each strided layer cannot carry, and what of it is folded back."""
    rows = [
        (
            f"`{result['site']}`",
            result.get("layer", ""),
            "x".join(map(str, result["stride"])),
            f"{result['above_nyquist']:.2g}",
            f"{result['folded']:.2g}",
        )
        for result in of_measure(records, "aliasing")
    ]
    return table(("Site", "Layer", "Stride", "Above Nyquist", "Folded back"), rows, text_columns=2)


def left_out_table(records: RunRecords) -> str:
    """The measurements that only one of two models has, or that were not made alike, with their ids in the records."""
    rows = [(measurement_name(name), f"`{name}`", why) for name, why in records.comparison["left_out"].items()]
    return table(("Measurement", "In evaluation.json", "Why it is not compared"), rows, text_columns=3)


def comparison_table(records: RunRecords) -> str:
    """Every measurement that both models have, wins and losses alike."""
    results = {result["id"]: result for result in records.evaluation.content["results"]}
    rows = []
    for row in shown_rows(records.comparison):
        name = _row_name(row, results.get(row["id"]))
        difference = f"{row['difference']:+.2f}"
        interval = "" if row["interval"] is None else interval_text(row["interval"], "+")
        values = percent(row["baseline"]), percent(row["model"])
        rows.append((name, row["metric"], row["verdict"] or "", *values, difference, interval))
    columns = ("Measurement", "Metric (%)", "Verdict", "Baseline", "This model", "Difference", "95 % interval")
    return table(columns, rows, text_columns=3)


def _row_name(row: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    """What a row of a comparison is called; its result is known unless it is a mean."""
    if result is None:
        name = row["id"].partition("/")[2].replace("_", " ") or "all corruptions"
        return f"{name}, mean of {row['entries']}"
    if row["measure"] == "corruption":
        return f"{result['corruption'].replace('_', ' ')}, severity {result['severity']}"
    if row["measure"] == "attack":
        return f"{result['attack']}, {result['norm']}, eps {eps_text(result['eps'], result['norm'])}"
    if row["measure"] == "shift":
        return f"{result['kind']} shift, {result['pixels']:g} {'pixel' if result['pixels'] == 1 else 'pixels'}"
    return row["id"]


def clean_accuracy_of_attacked(records: RunRecords) -> float | None:
    """Accuracy (percent) on the attacked images before they were attacked; None where their answers are not known."""
    per_image = records.evaluation.per_image() if of_measure(records, "attack") else None
    if per_image is None or not of_measure(records, "clean"):
        return None
    right, sample_ids = per_image
    attacked = torch.isin(sample_ids["clean"], sample_ids["attack"])
    return 100 * right["clean"][attacked].double().mean().item()
