"""Whether an evaluation.json has the layout that its readers rely on: a damaged one is refused before it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["record_problem"]

Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_percent(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_share(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check, length: int | None = None) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value)) and length in (None, len(value))


def _dict_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


_IS_SPECTRUM = _dict_of(_list_of(_is_number))

# For each part what must be there, and what is there if this package wrote it; everything else is left alone.
_MODEL = (
    {"name": _is_text, "weights_sha256": _is_text},
    {
        "architecture": _is_text,
        "asap": _or_none(lambda value: isinstance(value, dict)),
        "parameters": _is_count,
        "input_size": _list_of(_is_count, 3),
        "mean": _list_of(_is_number),
        "std": _list_of(_is_number),
    },
)
_DATA = (
    {"name": _is_text, "classes": _is_count, "split": _is_text, "images": _is_count},
    {
        "hub_id": _or_none(_is_text),
        "source": _or_none(_is_text),
        "labels_sha256": _is_text,
        "label_names": _list_of(_is_text),
    },
)
_SUMMARY = (
    {},
    {
        "clean_accuracy": _or_none(_is_percent),
        "corruption_accuracy": _or_none(_is_percent),
        "mce": _or_none(_is_number),
        "mce_reference": _or_none(_is_text),
        "corruption_errors": _or_none(_dict_of(_is_number)),
        "gradient_masking": _list_of(_is_text),
    },
)
_COUNTED = {"images": _is_count, "interval": _list_of(_is_number, 2)}
_RESULTS = {
    "clean": ({"accuracy": _is_percent}, {"loss": _is_number}),
    "corruption": (
        {"accuracy": _is_percent, "corruption": _is_text, "severity": _is_count, "table": _is_text},
        {"seed": _or_none(_is_count), "approximate": _or_none(_is_text), "loss": _is_number},
    ),
    "attack": (
        {"accuracy": _is_percent, "attack": _is_text, "norm": _is_text, "eps": _is_share},
        {
            "steps": _or_none(_is_count),
            "step_size": _or_none(_is_share),
            "restarts": _or_none(_is_count),
            "seed": _or_none(_is_count),
            "version": _is_text,
            "warnings": _list_of(_is_text),
        },
    ),
    "shift": ({"consistency": _is_percent}, {"kind": _is_text, "pixels": _is_share, "seed": _or_none(_is_count)}),
    "aliasing": (
        {"above_nyquist": _is_number},
        {"site": _is_text, "layer": _is_text, "status": _is_text, "stride": _list_of(_is_count),
         "spectrum": _IS_SPECTRUM},
    ),
}  # fmt: skip


def record_problem(content: Mapping[str, Any], whole: bool = False) -> str | None:
    """What is wrong with the layout of a record, in a few words; None where nothing is.

    Args:
        content: An evaluation.json with all of its parts, of the version that this package writes.
        whole: Expect all that this package writes, as its tables and plots do; else what a comparison needs.
    """
    for name, (needed, usual) in (("model", _MODEL), ("data", _DATA), ("summary", _SUMMARY)):
        if problem := _problem(content[name], needed, usual, whole):
            return f"{name}{problem}"
    produced = content.get("produced_by", {})
    if not isinstance(produced, dict) or not all(map(_is_text, (produced.get("command", ""),))):
        return "produced_by is not what it should be"
    if not isinstance(content["results"], list):
        return f"results is a {type(content['results']).__name__}"
    seen = set()
    for number, result in enumerate(content["results"]):
        where = f"results[{number}]"
        if problem := _problem(result, {"measure": _is_text, "id": _is_text}, {}, whole):
            return where + problem
        if result["measure"] not in _RESULTS:
            return f"{where}.measure is {result['measure']!r}"
        if result["id"] in seen:
            return f"{where}.id is there twice"
        seen.add(result["id"])
        needed, usual = _RESULTS[result["measure"]]
        if result["measure"] != "aliasing":
            needed = needed | _COUNTED
        if problem := _problem(result, needed, usual, whole):
            return where + problem
    return None


def _problem(part: Any, needed: Mapping[str, Check], usual: Mapping[str, Check], whole: bool) -> str | None:
    if not isinstance(part, dict):
        return f" is a {type(part).__name__}"
    for key, check in {**needed, **usual}.items():
        if key not in part:
            if key in needed or whole:
                return f".{key} is missing"
        elif not check(part[key]):
            return f".{key} is {_shown(part[key])}"
    return None


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
