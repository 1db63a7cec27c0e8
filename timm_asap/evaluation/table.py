"""Records as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from timm_asap.evaluation.aliasing import aliasing_table
from timm_asap.evaluation.record import Record
from timm_asap.screen import Column, ScreenTable, fit_segments, print_lines, print_text, room
from timm_asap.text import plain_text

__all__ = ["joint_table", "measurement_name", "overall_values", "print_record", "print_records"]

Result = Mapping[str, Any]


def print_records(records: Sequence[Record], console: Console) -> None:
    """Print what was measured: each model's tables, and one over all where there are several.

    Args:
        records: Of the models.
        console: Where to print.
    """
    for record in records:
        print_record(record, console)
    if len(records) > 1:
        print_lines(["", "percent"], console)
        joint_table(records).print(console)
    aliasing = {plain_text(record.name): record.content["results"] for record in records}
    if any(result["measure"] == "aliasing" for results in aliasing.values() for result in results):
        print_text("\nshare of energy above the new Nyquist frequency, and share that is folded back", console)
        aliasing_table(aliasing).print(console)
    for record in records:
        for warning in record.content["summary"].get("gradient_masking", ()):
            print_text(f"warning: {plain_text(record.name)}: {warning}", console)


def print_record(record: Record, console: Console) -> None:
    """Print one model: what it does clean, corrupted, attacked and shifted."""
    model, data = record.content["model"], record.content["data"]
    by_measure: dict[str, list[Result]] = {}
    for result in record.content["results"]:
        by_measure.setdefault(result["measure"], []).append(result)
    heading = f"{plain_text(model['name'])} on {plain_text(data['name'])}, {plain_text(data['split'])}"
    print_lines(["", heading], console, [None, "bold"])
    for result in by_measure.get("clean", []):
        console.print(f"clean accuracy {_interval(result, 'accuracy')}, {result['images']:,} images")
    if "corruption" in by_measure:
        _print_corruptions(by_measure["corruption"], record.content["summary"], console)
    if "attack" in by_measure:
        _print_attacks(by_measure["attack"], console)
    if "shift" in by_measure:
        _print_shifts(by_measure["shift"], console)


def joint_table(records: Sequence[Record]) -> ScreenTable:
    """All models, a row for each measurement; corruptions as their mean over the severities."""
    names = [plain_text(record.name) for record in records]
    table = ScreenTable(
        [
            Column("measurement"),
            *(Column(name, right=True, short=f"({number})") for number, name in enumerate(names, 1)),
        ]
    )
    columns = [overall_values(record.content["results"]) for record in records]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add(measurement_name(name), *(f"{column[name]:.2f}" if name in column else "-" for column in columns))
    mces = [record.content["summary"].get("mce") for record in records]
    if any(mce is not None for mce in mces):
        table.add("mCE (lower is better)", *("-" if mce is None else f"{mce:.2f}" for mce in mces))
    return table


def measurement_name(id: str, entries: int = 1) -> str:
    """A measurement as a reader calls it.

    Args:
        id: Of the entry in evaluation.json, or corruption/NAME for the mean over severities, or corruption over all.
        entries: Of how many entries it is the mean.

    Examples:
        >>> measurement_name("attack/pgd-linf/0.0313725"), measurement_name("corruption/fog", 5)
        ('pgd, linf, eps 8/255', 'fog, mean of 5')
    """
    kind, *rest = id.split("/")
    if kind == "corruption":
        name = rest[0].replace("_", " ") if rest else "all corruptions"
        name += f", severity {rest[1]}" if len(rest) > 1 else ""
    elif kind == "attack" and len(rest) == 2:
        attack, _, norm = rest[0].rpartition("-")
        eps = f"{255 * float(rest[1]):.4g}/255" if norm == "linf" else rest[1]
        name = f"{attack}, {norm}, eps {eps}"
    elif kind == "shift" and len(rest) == 2:
        name = f"{rest[0]} shift, {rest[1]} px"
    elif kind == "aliasing":
        name = f"aliasing, {'/'.join(rest) or '(root)'}"
    else:
        name = id
    return name if entries == 1 else f"{name}, mean of {entries}"


def overall_values(results: Sequence[Result]) -> dict[str, float]:
    """The accuracy or consistency of each measurement; of a corruption the mean over its severities."""
    values: dict[str, list[float]] = {}
    for result in results:
        if result["measure"] == "corruption":
            values.setdefault(f"corruption/{result['corruption']}", []).append(result["accuracy"])
        elif result["measure"] != "aliasing":
            values[result["id"]] = [result["consistency" if result["measure"] == "shift" else "accuracy"]]
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def _print_corruptions(results: Sequence[Result], summary: Mapping[str, Any], console: Console) -> None:
    severities = sorted({result["severity"] for result in results})
    errors = summary.get("corruption_errors")
    table = ScreenTable(
        [
            Column("corruption"),
            # the mean stays; of the severities those in the middle go first
            *(Column(str(s), right=True, drop=(3, 1, 4, 0, 2).index(s - 1)) for s in severities),
            Column("mean", right=True),
            *([] if errors is None else [Column("CE", right=True)]),
        ]
    )
    found = {(result["corruption"], result["severity"]): result for result in results}
    for name in dict.fromkeys(result["corruption"] for result in results):
        row = [found[name, severity] for severity in severities if (name, severity) in found]
        values = [result["accuracy"] for result in row]
        shown = [f"{found[name, s]['accuracy']:.2f}" if (name, s) in found else "-" for s in severities]
        star = " *" if any(result.get("approximate") for result in row) else ""
        more = [] if errors is None else [f"{errors[name]:.1f}" if name in errors else "-"]
        table.add(name + star, *shown, f"{sum(values) / len(values):.2f}", *more)
    heading = [
        "accuracy under corruption by severity,",
        f"{results[0]['table']} parameters,",
        f"{results[0]['images']:,} images",
    ]
    print_lines(["", fit_segments(heading, room(console)).replace(",  ", ", ")], console)
    table.print(console)
    if summary.get("corruption_accuracy") is not None:
        console.print(f"mean of the 15 corruptions: {summary['corruption_accuracy']:.2f} %")
    if summary.get("mce") is not None:
        console.print(f"mCE {summary['mce']:.2f} % against {plain_text(summary.get('mce_reference'))}")
    if any(result.get("approximate") for result in results):
        console.print("* approximate: evaluation.json says how")


def _print_attacks(results: Sequence[Result], console: Console) -> None:
    levels = sorted({result["eps"] for result in results})
    table = ScreenTable(
        [Column("attack"), *(Column(f"eps {255 * e:.4g}/255", right=True, short=f"{255 * e:.4g}/255") for e in levels)]
    )
    for name, norm in dict.fromkeys((result["attack"], result["norm"]) for result in results):
        found = {r["eps"]: r for r in results if (r["attack"], r["norm"]) == (name, norm)}
        table.add(f"{name}, {norm}", *(f"{found[e]['accuracy']:.2f}" if e in found else "-" for e in levels))
    print_lines(["", f"accuracy under attack, {results[0]['images']:,} images"], console)
    table.print(console)


def _print_shifts(results: Sequence[Result], console: Console) -> None:
    distances = sorted({result["pixels"] for result in results})
    table = ScreenTable([Column("shift"), *(Column(f"{pixels:g}", right=True) for pixels in distances)])
    for kind in dict.fromkeys(result["kind"] for result in results):
        found = {result["pixels"]: result for result in results if result["kind"] == kind}
        table.add(kind, *(f"{found[p]['consistency']:.2f}" if p in found else "-" for p in distances))
    print_lines(["", f"same prediction after a shift by so many pixels, {results[0]['images']:,} images"], console)
    table.print(console)


def _interval(result: Result, metric: str) -> str:
    low, high = result["interval"]
    return f"{result[metric]:.2f} % [{low:.2f}, {high:.2f}]"
