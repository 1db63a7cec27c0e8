"""Names of older versions, which go on working and say what they are called now."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = ["RENAMED", "has_older_keywords", "older_name", "takes_older_keywords"]

P = ParamSpec("P")
T = TypeVar("T")

RENAMED = {"skip_corrupt": "skip_unreadable"}
"""Fields and keywords by their older names: also in recipes, in config.yaml and, with dashes, on the command line."""


def takes_older_keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that it also takes the older names of its keywords, with a `DeprecationWarning`.

    Raises:
        TypeError: When called with both names of one keyword.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for old in RENAMED.keys() & kwargs.keys():
            new = RENAMED[old]
            if new in kwargs:
                raise TypeError(f"{function.__qualname__}() got {new} and its older name {old}: leave {old} out")
            older_name(old, new)
            kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call


def has_older_keywords(cls: type[T]) -> type[T]:
    """Decorate a dataclass so that it can also be made with the older names of its fields, and they can be read."""
    cls.__init__ = takes_older_keywords(cls.__init__)  # type: ignore[method-assign]
    for old, new in RENAMED.items():
        setattr(cls, old, property(_reader(old, new)))
    return cls


def _reader(old: str, new: str) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        older_name(old, new)
        return getattr(self, new)

    return read


def older_name(old: str, new: str) -> None:
    """Say that something has another name now."""
    warnings.warn(f"{old} is called {new} now", DeprecationWarning, stacklevel=3)
