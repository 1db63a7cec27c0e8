"""How flags are spelled and refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from timm_asap.command_line import flag, spelled_as_json
from timm_asap.errors import UserError


def require(holds: bool, name: str, expected: str, value: object) -> None:
    """Refuse the value of a field unless something holds."""
    if not holds:
        raise UserError(f"{flag(name)}: expected {expected}, got {value}")


def check_range(
    options: object,
    names: str,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuse numbers outside a range; None, where nothing was given, passes.

    Args:
        options: What has the fields.
        names: The fields, separated by blanks.
        low: The least value that is allowed.
        high: The largest value that is allowed; infinity itself is not.
        open_low: `low` itself is not allowed.
        open_high: `high` itself is not allowed.
    """
    expected = f"{'above' if open_low else 'at least'} {low:g}"
    if high != math.inf:
        expected = f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    for name in names.split():
        value = getattr(options, name)
        if value is not None:
            above = low < value if open_low else low <= value
            below = value < high if open_high else value <= high
            require(above and below and math.isfinite(value), name, expected, value)


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    # compared with their types, or 1 would pass for true
    return lambda value: value is None or (type(value), value) in [(type(choice), choice) for choice in choices]


Switch = Annotated[bool | None, spelled_as_json("true|false", _one_of(True, False))]
Stem = Annotated[bool | str | None, spelled_as_json("auto|true|false", _one_of("auto", True, False))]
Precision = Annotated[str | None, spelled_as_json("fp32|bf16|fp16", _one_of("fp32", "bf16", "fp16"))]
JsonObject = Annotated[dict[str, Any], spelled_as_json("JSON-OBJECT", lambda value: isinstance(value, dict))]
