"""The types of what a card takes from run.json and result.json: a file that somebody changed is refused by its key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm_asap.errors import UserError
from timm_asap.text import as_text

__all__ = ["check_facts", "check_result"]

_Check = tuple[str, Callable[[Any], bool]]


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _or_none(check: _Check) -> _Check:
    return f"{check[0]}, or null", lambda value: value is None or check[1](value)


def _list_of(check: _Check) -> _Check:
    return f"a list, each {check[0]}", lambda value: isinstance(value, list) and all(map(check[1], value))


_TEXT: _Check = ("a text", lambda value: isinstance(value, str))
_WHOLE: _Check = ("a whole number from 0", _is_whole)
_NUMBER: _Check = ("a number", _is_number)
_PERCENT: _Check = ("a number from 0 to 100", lambda value: _is_number(value) and 0 <= value <= 100)
_TRUTH: _Check = ("true or false", lambda value: isinstance(value, bool))
_OBJECT: _Check = ("an object", lambda value: isinstance(value, dict))
_TEXTS: _Check = (
    "an object of texts",
    lambda value: isinstance(value, dict) and all(item is None or isinstance(item, str) for item in value.values()),
)

_FACTS = {
    "command": _TEXT,
    "versions": _TEXTS,
    "hardware": _TEXT,
    "processes": _WHOLE,
    "precision": _TEXT,
    "model": _OBJECT,
    "data": _OBJECT,
}
_DATA = {
    "name": _TEXT,
    "hub_id": _or_none(_TEXT),
    "source": _TEXT,
    "frame": _or_none(_list_of(_WHOLE)),
    "small": _or_none(_TRUTH),
    "classes": _or_none(_WHOLE),
    "label_names": _or_none(_list_of(_TEXT)),
    "train_images": _or_none(_WHOLE),
    "val_images": _or_none(_WHOLE),
    "val_name": _or_none(_TEXT),
    "test_images": _or_none(_WHOLE),
    "test_name": _or_none(_TEXT),
}
_RESULT = {
    "epoch": _WHOLE,
    "test_loss": _NUMBER,
    "test_accuracy": _PERCENT,
    "test_images": _WHOLE,
    "chosen_by": _TEXT,
    "weights_sha256": _TEXT,
}


def check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """See that run.json, or the part of it that is there, holds what was written.

    Args:
        facts: Its content; older versions wrote less.
        path: The file, for the error.

    Raises:
        UserError: Of a key that is there, its value is of another type: the key, what was expected and what came.
    """
    _check(facts, _FACTS, path, "")
    _check(facts.get("data", {}), _DATA, path, "data.")


def check_result(result: Mapping[str, Any], path: Path) -> None:
    """As `check_facts`, for result.json."""
    _check(result, _RESULT, path, "")


def _check(part: Mapping[str, Any], checks: Mapping[str, _Check], path: Path, above: str) -> None:
    for key, (expected, is_right) in checks.items():
        if key in part and not is_right(part[key]):
            came = as_text(part[key])
            raise UserError(
                f"{path} is damaged: {above}{key}: expected {expected}, got {came if len(came) <= 60 else came[:57]}"
            )
