"""Records as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from timm_asap.evaluation.aliasing import aliasing_table
from timm_asap.evaluation.record import Record

__all__ = ["joint_table", "print_records", "record_tables", "wide_console"]

Result = Mapping[str, Any]


def wide_console() -> Console:
    """A console of standard output; a file or a pipe gets room enough that nothing is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=160, highlight=False)


def print_records(records: Sequence[Record], console: Console) -> None:
    """Print what was measured: each model's tables, and one over all where there are several.

    Args:
        records: Of the models.
        console: Where to print.
    """
    for record in records:
        console.print(record_tables(record))
    if len(records) > 1:
        console.print(joint_table(records))
    aliasing = {record.name: record.content["results"] for record in records}
    if any(result["measure"] == "aliasing" for results in aliasing.values() for result in results):
        console.print(aliasing_table(aliasing))
    for record in records:
        for warning in record.content["summary"].get("gradient_masking", ()):
            console.print(f"warning: {record.name}: {warning}")


def record_tables(record: Record) -> RenderableType:
    """One model: what it does clean, corrupted, attacked and shifted."""
    model, data = record.content["model"], record.content["data"]
    by_measure: dict[str, list[Result]] = {}
    for result in record.content["results"]:
        by_measure.setdefault(result["measure"], []).append(result)
    parts: list[RenderableType] = [f"\n[bold]{model['name']}[/bold] on {data['name']}, {data['split']}"]
    for result in by_measure.get("clean", []):
        parts.append(f"clean accuracy {_interval(result, 'accuracy')}, {result['images']:,} images")
    if "corruption" in by_measure:
        parts.append(_corruptions(by_measure["corruption"], record.content["summary"]))
    if "attack" in by_measure:
        parts.append(_attacks(by_measure["attack"]))
    if "shift" in by_measure:
        parts.append(_shifts(by_measure["shift"]))
    return Group(*parts)


def joint_table(records: Sequence[Record]) -> Table:
    """All models, a row for each measurement; corruptions as their mean over the severities."""
    table = Table()
    table.add_column("percent", no_wrap=True)
    columns = [overall_values(record.content["results"]) for record in records]
    for record in records:
        table.add_column(record.name, justify="right")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(f"{column[name]:.2f}" if name in column else "-" for column in columns))
    mces = [record.content["summary"].get("mce") for record in records]
    if any(mce is not None for mce in mces):
        table.add_row("mCE (lower is better)", *("-" if mce is None else f"{mce:.2f}" for mce in mces))
    return table


def overall_values(results: Sequence[Result]) -> dict[str, float]:
    """The accuracy or consistency of each measurement; of a corruption the mean over its severities."""
    values: dict[str, list[float]] = {}
    for result in results:
        if result["measure"] == "corruption":
            values.setdefault(f"corruption/{result['corruption']}", []).append(result["accuracy"])
        elif result["measure"] != "aliasing":
            values[result["id"]] = [result["consistency" if result["measure"] == "shift" else "accuracy"]]
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def _corruptions(results: Sequence[Result], summary: Mapping[str, Any]) -> Group:
    severities = sorted({result["severity"] for result in results})
    table = Table()
    table.add_column("corruption", no_wrap=True)
    for severity in severities:
        table.add_column(str(severity), justify="right")
    table.add_column("mean", justify="right")
    errors = summary.get("corruption_errors")
    if errors is not None:
        table.add_column("CE", justify="right")
    found = {(result["corruption"], result["severity"]): result for result in results}
    for name in dict.fromkeys(result["corruption"] for result in results):
        row = [found[name, severity] for severity in severities if (name, severity) in found]
        values = [result["accuracy"] for result in row]
        shown = [f"{found[name, s]['accuracy']:.2f}" if (name, s) in found else "-" for s in severities]
        star = " *" if any(result.get("approximate") for result in row) else ""
        more = [] if errors is None else [f"{errors[name]:.1f}" if name in errors else "-"]
        table.add_row(name + star, *shown, f"{sum(values) / len(values):.2f}", *more)
    captions = []
    if summary.get("corruption_accuracy") is not None:
        captions.append(f"mean of the 15 corruptions: {summary['corruption_accuracy']:.2f} %")
    if summary.get("mce") is not None:
        captions.append(f"mCE {summary['mce']:.2f} % against {summary.get('mce_reference')}")
    if any(result.get("approximate") for result in results):
        captions.append("* approximate: evaluation.json says how")
    heading = f"accuracy under corruption, {results[0]['table']} parameters, {results[0]['images']:,} images"
    return Group(heading, table, *captions)


def _attacks(results: Sequence[Result]) -> Group:
    table = Table()
    table.add_column("attack", no_wrap=True)
    levels = sorted({result["eps"] for result in results})
    for eps in levels:
        table.add_column(f"eps {255 * eps:g}/255", justify="right")
    for name, norm in dict.fromkeys((result["attack"], result["norm"]) for result in results):
        found = {r["eps"]: r for r in results if (r["attack"], r["norm"]) == (name, norm)}
        table.add_row(f"{name}, {norm}", *(f"{found[e]['accuracy']:.2f}" if e in found else "-" for e in levels))
    return Group(f"accuracy under attack, {results[0]['images']:,} images", table)


def _shifts(results: Sequence[Result]) -> Group:
    table = Table()
    table.add_column("shift", no_wrap=True)
    distances = sorted({result["pixels"] for result in results})
    for pixels in distances:
        table.add_column(f"{pixels:g}", justify="right")
    for kind in dict.fromkeys(result["kind"] for result in results):
        found = {result["pixels"]: result for result in results if result["kind"] == kind}
        table.add_row(kind, *(f"{found[p]['consistency']:.2f}" if p in found else "-" for p in distances))
    return Group(f"consistency under a shift by so many pixels, {results[0]['images']:,} images", table)


def _interval(result: Result, metric: str) -> str:
    low, high = result["interval"]
    return f"{result[metric]:.2f} % [dim][{low:.2f}, {high:.2f}][/dim]"
