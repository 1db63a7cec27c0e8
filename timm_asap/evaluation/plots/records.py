"""What the pictures ask of evaluation records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_asap.text import plain_text

__all__ = ["Record", "Result", "clean_of", "interval_band", "model_names", "results_of"]

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
