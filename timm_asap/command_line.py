"""Command lines from dataclasses by tyro, every mistake brought to one line."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from timm_asap.errors import UserError, unknown_name

__all__ = ["JsonList", "flag", "given_fields", "parse", "renamed_flags", "spelled_as_json"]

T = TypeVar("T")

_RENAMED = {"--skip-corrupt": "--skip-unreadable", "--no-skip-corrupt": "--no-skip-unreadable"}


def flag(field: str) -> str:
    """The flag of a field: `batch_size` gives `--batch-size`."""
    return "--" + field.replace("_", "-")


def spelled_as_json(metavar: str, accepts: Callable[[Any], bool]) -> PrimitiveConstructorSpec:
    """A flag spelled as in JSON and YAML.

    Args:
        metavar: How the help calls its value.
        accepts: Whether a value will do.
    """

    def read(words: list[str]) -> Any:
        try:
            value = json.loads(words[0])
        except json.JSONDecodeError:
            value = None if words[0] == "None" else words[0]
        if not accepts(value):
            raise ValueError(f"got {words[0]!r}")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, (bool, str, dict, list, tuple)),
        str_from_instance=lambda value: [str(value) if isinstance(value, str) else json.dumps(value)],
    )


JsonList = Annotated[list[str] | None, spelled_as_json("JSON-LIST", lambda value: value is None or type(value) is list)]


def renamed_flags(argv: Sequence[str]) -> list[str]:
    """The words of a command line with flags that had another name once under their own; each is said."""
    words = []
    for word in argv:
        old, equals, value = word.partition("=")
        new = _RENAMED.get(old)
        if new is not None:
            print(f"DeprecationWarning: {old} is called {new} now", file=sys.stderr)
        words.append(word if new is None else f"{new}{equals}{value}")
    return words


def parse(options: type[T], argv: Sequence[str], prog: str, default: T | None = None) -> T:
    """Read flags into a dataclass.

    Args:
        options: The dataclass whose fields are the flags, and whose docstrings are the help.
        argv: The words after the program's name.
        prog: The program's name in the help.
        default: Values of flags that are not given; by default the dataclass's own.

    Raises:
        UserError: An unknown flag (with the closest matches), a value that does not fit, or the dataclass's own
            check.
        SystemExit: With code 0, after printing the help that was asked for.
    """
    words = renamed_flags(argv)
    printed = io.StringIO()
    settings: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(printed):
            values, unknown = tyro.cli(options, prog=prog, args=words, return_unknown_args=True, **settings)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        if isinstance(stop.__context__, UserError):  # raised by the dataclass, then boxed by tyro
            raise stop.__context__ from None
        raise UserError(_unboxed(printed.getvalue())) from None
    if unknown:
        assert is_dataclass(options)
        word = unknown[0]
        if not word.startswith("-"):
            raise UserError(f"unexpected {word!r}: every value follows its flag; {prog} --help lists them")
        raise UserError(unknown_name("flag", word.split("=")[0], [flag(f.name) for f in fields(options)]))
    return values


def given_fields(argv: Sequence[str], options: type) -> frozenset[str]:
    """The fields of a dataclass whose flags are on a command line, as opposed to those that keep their defaults.

    Args:
        argv: The words after the program's name.
        options: The dataclass.
    """
    names = {f.name for f in fields(options)}
    words = {word.split("=")[0][2:].replace("-", "_") for word in argv if word.startswith("--")}
    return frozenset((words | {word.removeprefix("no_") for word in words}) & names)


def _unboxed(box: str) -> str:
    """The message of a boxed error of tyro, with the form that the flag takes where the box says it."""
    # the frame is drawn in box characters or, where the terminal has none, in dashes
    lines = [re.sub(r"[\u2500-\u257f]|^-+$", "", line.strip()).strip() for line in box.splitlines()[1:]]
    paragraphs = " ".join(line or "\n" for line in lines).split("\n")
    message = next((text.strip() for text in paragraphs if text.strip()), "the flags cannot be read")
    found = re.match(r"Error parsing (--[\w-]+)\S*: (.*)", message)
    if not found:
        return message
    form = next((line for line in lines if line.startswith(found[1] + " ")), found[1])
    return f"{found[1]}: {found[2].rstrip('.')}; expected {form}"
