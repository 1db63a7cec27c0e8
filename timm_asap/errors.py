"""The one exception that users meet at the command line, and the wording of its commonest case."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can put right: the command line prints it as one line and exits with code 2.

    The text says what was expected, what came and what to do, and holds no line break.
    """


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """One line for a name that is not among the valid ones: the closest matches, or all when they are few.

    Args:
        kind: What was named, as the user would call it: "window", "data set", "model".
        name: What came.
        valid: Every name that would have been right.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(str(name), names, n=5, cutoff=0.5)
    if len(names) <= 12:
        hint = f"expected one of {', '.join(names)}"
    elif close:
        hint = f"closest matches: {', '.join(close)}"
    else:
        hint = f"{len(names)} names are valid, for example {', '.join(names[:3])}"
    return f"unknown {kind} {str(name)!r}: {hint}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__
