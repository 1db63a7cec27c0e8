"""The results of a card as tables: accuracy, corruptions, attacks, shifts, aliasing, and a baseline's difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from timm_asap._types import present
from timm_asap.evaluation.statistics import bootstrap_means, percentile_interval, wilson_interval
from timm_asap.evaluation.table import measurement_name
from timm_asap.hub.cards.comparison import shown_rows
from timm_asap.hub.cards.records import RunRecords

__all__ = [
    "aliasing_table",
    "attack_settings",
    "attack_table",
    "clean_accuracy_of_attacked",
    "clean_table",
    "comparison_table",
    "corruption_means",
    "corruption_table",
    "eps_text",
    "headline_table",
    "interval_text",
    "left_out_table",
    "measured_on",
    "of_measure",
    "percent",
    "shift_table",
    "table",
]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table.

    Args:
        columns: Headings.
        rows: Cells, as many as there are headings.
        text_columns: How many columns, from the left, hold text; the others are set to the right.
    """
    marks = ["---" if place < text_columns else "---:" for place in range(len(columns))]
    lines = [_line(columns), f"|{'|'.join(marks)}|", *(_line(row) for row in rows)]
    return "\n".join(lines)


def percent(value: float, interval: Sequence[float] | None = None) -> str:
    """Percent with two decimals, and its interval where there is one."""
    return f"{value:.2f}" if interval is None else f"{value:.2f} {interval_text(interval)}"


def interval_text(interval: Sequence[float], sign: str = "") -> str:
    """An interval with two decimals; `sign` "+" shows that of positive ends, too."""
    low, high = interval
    return f"[{low:{sign}.2f}, {high:{sign}.2f}]"


def eps_text(value: float, norm: str) -> str:
    """A radius on the [0, 1] scale: in gray levels where it bounds each pixel."""
    return f"{255 * value:.4g}/255" if norm == "linf" else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


_HEALING = {"plain": "plain network", "before": "before healing", "healed": "these weights"}

Result = Mapping[str, Any]


def of_measure(records: RunRecords, measure: str) -> list[Result]:
    """The entries of the evaluation with a measure; none where there is no evaluation."""
    if records.evaluation is None:
        return []
    return [result for result in records.evaluation.content["results"] if result["measure"] == measure]


def clean_table(records: RunRecords) -> str:
    """Accuracy on clean images: of the evaluation, and of the end of training where that says something else."""
    rows = []
    name, split = records.data_name, records.data["test_name"]
    for result in of_measure(records, "clean"):
        data = present(records.evaluation, "evaluation").content["data"]
        rows.append((measured_on(records), data["split"], result["images"], result["accuracy"], result["interval"]))
        rows[-1] += (f"{result['loss']:.4f}", "timm-asap evaluate")
    if records.result is not None:
        images, accuracy = records.result["test_images"], records.result["test_accuracy"]
        if not any(row[:3] == (name, split, images) and abs(row[3] - accuracy) < 0.005 for row in rows):
            rows.append((name, split, images, accuracy, _wilson(accuracy, images)))
            rows[-1] += (f"{records.result['test_loss']:.4f}", "end of training")
    if records.healing is not None:
        images = records.healing["test_images"]
        for key, accuracy in records.healing["accuracy"].items():
            rows.append((name, split, images, accuracy, _wilson(accuracy, images), "", _HEALING.get(key, key)))
    columns = ("Data", "Split", "Measured", "Images", "Accuracy (%)", "95 % interval", "Cross-entropy")
    cells = [(*row[:2], row[6], f"{row[2]:,}", percent(row[3]), interval_text(row[4]), row[5]) for row in rows]
    return table(columns, cells, text_columns=3)


def headline_table(records: RunRecords) -> str:
    """What a reader wants to know first: clean, corrupted, attacked and shifted, a row each.

    Of the attacks the one that found least, at the middle of its eps above 0.
    """
    rows = []
    for name, value, interval, images, key in _headline(records):
        row = [name, f"{images:,}", f"**{value:.2f}**", interval_text(interval) if interval else ""]
        if records.comparison is not None:
            found = next((r for r in records.comparison["rows"] if r["id"] == key), None)
            row.append("" if found is None else f"{found['difference']:+.2f}")
        rows.append(row)
    columns = ["", "Images", "Percent", "95 % interval"]
    if records.comparison is not None:
        columns.append(f"Against {records.comparison['baseline']}")
    return table(columns, rows)


def _headline(records: RunRecords) -> Iterator[tuple[str, float, tuple[float, float] | None, int, str]]:
    clean = of_measure(records, "clean")
    where = f"accuracy on {records.data_name}, {records.data['test_name']}"
    if clean:
        data = present(records.evaluation, "evaluation").content["data"]
        where = f"accuracy on {measured_on(records)}, {data['split']}"
        yield where, clean[0]["accuracy"], clean[0]["interval"], clean[0]["images"], "clean"
    elif records.result is not None:
        accuracy, images = records.result["test_accuracy"], records.result["test_images"]
        yield where, accuracy, _wilson(accuracy, images), images, "clean"
    elif records.healing is not None:
        accuracy, images = records.healing["accuracy"]["healed"], records.healing["test_images"]
        yield where, accuracy, _wilson(accuracy, images), images, "clean"
    if records.adaptation is not None:
        after = records.adaptation["after"]
        where = "same top class as the plain network, held-out images"
        yield where, after["agreement"], tuple(after["agreement_interval"]), after["images"], "fidelity"
    corrupted = of_measure(records, "corruption")
    means = corruption_means(records)
    if "all" in means:
        mean, interval = means["all"]
        kinds = len({result["corruption"] for result in corrupted})
        yield f"under {kinds} corruptions, mean", mean, interval, corrupted[0]["images"], "corruption"
    curves: dict[tuple[str, str], list[Result]] = {}
    for result in of_measure(records, "attack"):
        if result["eps"] < 1 or result["norm"] != "linf":
            curves.setdefault((result["attack"], result["norm"]), []).append(result)
    if curves:
        curve = min(curves.values(), key=lambda c: sum(r["accuracy"] for r in c) / len(c))
        middle = sorted(curve, key=lambda result: result["eps"])[len(curve) // 2]
        name = measurement_name(middle["id"])
        yield f"under attack ({name})", middle["accuracy"], middle["interval"], middle["images"], middle["id"]
    shifts = [result for result in of_measure(records, "shift") if result["pixels"] == 1]
    if shifts:
        first = shifts[0]
        name = f"same class after a {first['kind']} shift by 1 px"
        yield name, first["consistency"], first["interval"], first["images"], first["id"]


def corruption_table(records: RunRecords) -> str:
    """Accuracy for each corruption and severity, with the interval of each mean where the predictions are known."""
    results = of_measure(records, "corruption")
    severities = sorted({result["severity"] for result in results})
    rows = []
    for name, (mean, interval) in corruption_means(records).items():
        group = [result for result in results if name in ("all", result["corruption"])]
        found = [[r["accuracy"] for r in group if r["severity"] == severity] for severity in severities]
        cells = [percent(sum(values) / len(values)) if values else "-" for values in found]
        star = " *" if name != "all" and any(result["approximate"] for result in group) else ""
        rows.append((name.replace("_", " ") + star, *cells, percent(mean, interval)))
    return table(("Corruption", *(f"severity {severity}" for severity in severities), "mean"), rows)


def corruption_means(records: RunRecords) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Mean accuracy over the severities of each corruption, then of "all" of them, with bootstrap intervals."""
    results = of_measure(records, "corruption")
    groups = {name: [r for r in results if r["corruption"] == name] for name in [r["corruption"] for r in results]}
    if len(groups) > 1:
        groups["all"] = results
    per_image = present(records.evaluation, "evaluation").per_image() if results else None
    means = {}
    for name, group in groups.items():
        interval = None if per_image is None else _interval(per_image[0], group)
        means[name] = sum(result["accuracy"] for result in group) / len(group), interval
    return means


def measured_on(records: RunRecords) -> str:
    """What to call the data of the evaluation: those of the run by the same name."""
    name = present(records.evaluation, "evaluation").content["data"]["name"]
    return records.data_name if name == records.data["name"] else name


def _interval(right: Mapping[str, Any], results: Sequence[Result]) -> tuple[float, float]:
    """Bootstrap over images: those of one record are the same under every corruption."""
    share = np.mean([right[result["id"]].numpy() for result in results], axis=0)
    return percentile_interval(100 * bootstrap_means(share, seed=0))


def _wilson(accuracy: float, images: int) -> tuple[float, float]:
    return wilson_interval(round(images * accuracy / 100), images)


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
    rows = [
        (measurement_name(name), f"`{name}`", why)
        for name, why in present(records.comparison, "comparison")["left_out"].items()
    ]
    return table(("Measurement", "In evaluation.json", "Why it is not compared"), rows, text_columns=3)


def comparison_table(records: RunRecords) -> str:
    """Every measurement that both models have, wins and losses alike."""
    results = {result["id"]: result for result in present(records.evaluation, "evaluation").content["results"]}
    rows = []
    for row in shown_rows(present(records.comparison, "comparison")):
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
    """Accuracy (percent) on the attacked images before they were attacked; None where they are not known."""
    per_image = present(records.evaluation, "evaluation").per_image() if of_measure(records, "attack") else None
    if per_image is None or not of_measure(records, "clean"):
        return None
    right, sample_ids = per_image
    attacked = torch.isin(sample_ids["clean"], sample_ids["attack"])
    return 100 * right["clean"][attacked].double().mean().item()
