"""Command lines from dataclasses by tyro: flags grouped by concern, help that fits the screen, mistakes in one line.

A dataclass is the configuration, the flags and the help. Its fields are grouped by the dataclass of its bases that
declares them, or by `sections`, a class attribute that names the first field of each group.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import PrimitiveConstructorSpec

import timm_asap
from timm_asap._renamed import RENAMED
from timm_asap.errors import UserError, unknown_name

__all__ = [
    "STEM",
    "Boundary",
    "File",
    "Folder",
    "JsonList",
    "Layout",
    "Model",
    "Name",
    "Stem",
    "Window",
    "flag",
    "given_fields",
    "metavar",
    "parse",
    "read_flags",
    "renamed_flags",
    "spelled_as_json",
]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_RENAMED = {
    f"--{no}{old}".replace("_", "-"): f"--{no}{new}".replace("_", "-")
    for old, new in RENAMED.items()
    for no in ("", "no-")
}

# Defaults that say nothing: the text of such a flag tells what happens without it.
_UNSAID = frozenset({"None", "null", "False", "", "{}", "'{}'"})


def metavar(name: str) -> object:
    """What stands for a flag's value in the help: `Annotated[str, metavar("FOLDER")]`."""
    return tyro.conf.arg(metavar=name)


File = Annotated[str, metavar("FILE")]
Folder = Annotated[str, metavar("FOLDER")]
Model = Annotated[str, metavar("MODEL")]
Name = Annotated[str, metavar("NAME")]

# As `timm_asap.convert` takes them, in words that need no torch.
Window = Literal["asap", "hamming", "flc"]
Boundary = Literal["circular", "reflect", "zero"]
Layout = Literal["preserve", "paper"]
Stem = Literal["auto", "true", "false"]
STEM: dict[str, bool | Literal["auto"]] = {"auto": "auto", "true": True, "false": False}
"""The values that the words of `Stem` stand for."""


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
    """As `read_flags`, and then register the twins in timm: what takes seconds comes after the refusals."""
    values = read_flags(options, argv, prog, default)
    timm_asap.register()
    return values


def read_flags(
    options: type[T], argv: Sequence[str], prog: str, default: T | None = None, only: Collection[str] | None = None
) -> T:
    """Read flags into a dataclass.

    Args:
        options: The dataclass whose fields are the flags, and whose docstrings are the help.
        argv: The words after the program's name.
        prog: The program's name in the help.
        default: Values of flags that are not given; by default the dataclass's own.
        only: The fields that the words are about; without it, all.

    Raises:
        UserError: An unknown flag (with the closest matches), a value that does not fit, or the dataclass's own
            check. Arguments that are missing are listed one a line.
        SystemExit: With code 0, after printing the help that was asked for.
    """
    words = renamed_flags(argv)
    flags = [_Flag.of(f, hint, options) for f, hint in zip(fields(options), _hints(options), strict=True)]
    if only is not None:
        flags = [f for f in flags if f.name in only]
    asks_help = any(word in ("-h", "--help") for word in words)
    if not asks_help:
        _refuse_unknown(words, flags, prog)
    parser, groups = _nested(options, flags, default)
    printed, help_text = io.StringIO(), _LikeStdout()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(help_text):
            values, unknown = tyro.cli(
                parser, prog=prog, description=_summary(options), args=words, return_unknown_args=True
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            print(_fitted(help_text.text()), end="")
            raise
        raise _refusal(printed.getvalue(), flags, prog) from None
    if unknown:
        raise UserError(f"unexpected {unknown[0]!r}: every value follows its flag; {prog} --help lists them")
    flat = {name: getattr(getattr(values, group), name) for group, names in groups.items() for name in names}
    flat |= {f.name: getattr(values, f.name) for f in flags if f.name not in flat}
    return options(**flat) if only is None else replace(options() if default is None else default, **flat)


def given_fields(argv: Sequence[str], options: type) -> frozenset[str]:
    """The fields of a dataclass whose flags are on a command line, as opposed to those that keep their defaults.

    Args:
        argv: The words after the program's name.
        options: The dataclass.
    """
    names = {f.name for f in fields(options)}
    words = {word.split("=")[0][2:].replace("-", "_") for word in argv if word.startswith("--")}
    return frozenset((words | {word.removeprefix("no_") for word in words}) & names)


@dataclass(frozen=True)
class _Flag:
    """A field as a flag."""

    name: str
    type: Any
    metadata: tuple[Any, ...]
    field: Field[Any]
    owner: type
    """The dataclass that declared it first: its concern."""
    described_by: type
    """The one that says last what it is."""

    @classmethod
    def of(cls, field: Field[Any], hint: Any, options: type) -> _Flag:
        kind, metadata = _unwrap(hint)
        declaring = [base for base in options.__mro__ if field.name in inspect.get_annotations(base)]
        return cls(field.name, kind, metadata, field, declaring[-1], declaring[0])

    @property
    def is_positional(self) -> bool:
        return tyro.conf.Positional in self.metadata

    @property
    def is_required(self) -> bool:
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def is_switch(self) -> bool:
        return self.type is bool

    @property
    def metavar(self) -> str | None:
        """As the dataclass names it, or by the choices; None leaves it to tyro."""
        for item in self.metadata:
            if named := getattr(item, "metavar", None):
                return named
        plain = [kind for kind in get_args(self.type) or (self.type,) if kind is not types.NoneType]
        if get_origin(self.type) is Literal:
            return "|".join(map(str, get_args(self.type)))
        if len(plain) == 1 and get_origin(plain[0]) is Literal:
            return "|".join(map(str, get_args(plain[0])))
        simple = {int: "INT", float: "FLOAT", str: "TEXT"}
        if len(plain) == 1 and plain[0] in simple:
            return simple[plain[0]]
        return None

    @property
    def spelled(self) -> str:
        """As the help shows it."""
        shown = self.metavar or ""
        return shown if self.is_positional else f"{flag(self.name)} {shown}".strip()

    @property
    def help(self) -> str:
        return _docs(self.described_by).get(self.name, "")

    def as_tyro(self) -> Any:
        """The type as tyro shall read it."""
        said = (lambda label: "(required)") if self.is_required else _said_default
        shown = tyro.conf.arg(help=self.help, metavar=self.metavar, help_behavior_hint=said)
        # of what has a reader of its own tyro need not check the type, for which it would import typeguard
        has_reader = any(isinstance(item, PrimitiveConstructorSpec) for item in self.metadata)
        return Annotated[(object if has_reader else self.type, *self.metadata, shown)]


def _said_default(label: str) -> str:
    return "" if label in _UNSAID else f"(default: {label})"


@cache
def _hints(options: type) -> tuple[Any, ...]:
    hints = get_type_hints(options, include_extras=True)
    return tuple(hints[f.name] for f in fields(options))


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The plain type and its metadata; `Annotated[str, x] | None` is the type `str | None` with the metadata x."""
    if get_origin(hint) is Annotated:
        kind, *metadata = get_args(hint)
        inner, more = _unwrap(kind)
        return inner, (*more, *metadata)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_unwrap(part) for part in get_args(hint)]
        kinds = tuple(kind for kind, _ in parts)
        return Union[kinds], tuple(item for _, metadata in parts for item in metadata)  # noqa: UP007
    return hint, ()


@cache
def _docs(owner: type) -> Mapping[str, str]:
    """The text of each field: the string after it."""
    found = docstring_parser.parse_from_object(owner)
    return {p.arg_name: " ".join((p.description or "").split()) for p in found.params}


def _summary(options: type) -> str:
    return inspect.getdoc(options) or ""


def _nested(options: type[T], flags: Sequence[_Flag], default: T | None) -> tuple[type, dict[str, list[str]]]:
    """A dataclass of dataclasses that tyro shows as one box per group, and the fields of each group."""
    groups: dict[str, list[_Flag]] = {}
    for f, group in zip(flags, _group_names(options, flags), strict=True):
        groups.setdefault("" if f.is_positional else group, []).append(f)

    def described(members: Sequence[_Flag]) -> list[tuple[str, Any, Any]]:
        ordered = sorted(members, key=lambda f: not (default is None and f.is_required))
        return [(f.name, f.as_tyro(), _default_of(f, default)) for f in ordered]

    own = described(groups.pop("", []))
    nested = []
    for group, members in groups.items():
        made = make_dataclass(group, described(members))
        about = next((inspect.getdoc(f.owner) for f in members if f.owner is not options), None) or " "
        # with a text of its own tyro does not look for one in the source
        nested.append((group, Annotated[made, tyro.conf.OmitArgPrefixes], field(metadata={"help": about})))
    required = [entry for entry in own if entry[2].default is MISSING and entry[2].default_factory is MISSING]
    rest = [entry for entry in own if entry not in required]
    # dataclasses want those without a default first, and a group has none
    root = make_dataclass(options.__name__, [*required, *nested, *rest])
    return root, {group: [f.name for f in members] for group, members in groups.items()}


def _group_names(options: type, flags: Sequence[_Flag]) -> list[str]:
    sections: Mapping[str, str] = getattr(options, "sections", {})
    names, current = [], ""
    for f in flags:
        current = sections.get(f.name, current)
        names.append(current if f.owner is options else _concern(f.owner))
    return names


def _concern(owner: type) -> str:
    """`ModelOptions` holds the flags of the group "model", `DataConfig` those of "data"."""
    return owner.__name__.removesuffix("Options").removesuffix("Config").lower()


def _default_of(f: _Flag, default: Any) -> Any:
    if default is not None:
        value = getattr(default, f.name)
        return field(default_factory=lambda: value)  # a dataclass takes no mutable default
    if f.field.default_factory is not MISSING:
        return field(default_factory=f.field.default_factory)
    return field() if f.field.default is MISSING else field(default=f.field.default)


def _refuse_unknown(words: Sequence[str], flags: Sequence[_Flag], prog: str) -> None:
    known = {flag(f.name) for f in flags if not f.is_positional}
    known |= {f"--no-{f.name.replace('_', '-')}" for f in flags if f.is_switch}
    positional = {flag(f.name): f for f in flags if f.is_positional}
    for word in words:
        spelled = word.split("=")[0].replace("_", "-")
        if not spelled.startswith("--") or spelled in known or spelled.startswith("--tyro-"):
            continue
        if spelled in positional:
            raise UserError(f"{spelled} is no flag: expected the value alone, {prog} {positional[spelled].spelled}")
        # every command has --help, and one or two have nothing else
        raise UserError(unknown_name("flag", word.split("=")[0], known | {"--help"}))


def _refusal(box: str, flags: Sequence[_Flag], prog: str) -> UserError:
    """A boxed error of tyro as ours."""
    # the frame is drawn in box characters or, where the terminal has none, in dashes
    lines = [re.sub(r"[\u2500-\u257f]|^-+$", "", line.strip()).strip() for line in _colorless(box).splitlines()[1:]]
    if any(line.startswith("Missing from") for line in lines):
        missing = [f for f in flags if f.is_required and any(line.split("  ")[0] == f.spelled for line in lines)]
        if missing:
            return _missing(missing, prog)
    paragraphs = " ".join(line or "\n" for line in lines).split("\n")
    message = next((text.strip() for text in paragraphs if text.strip()), "the flags cannot be read")
    spelled = {flag(f.name): f for f in flags}
    if found := re.match(r"Error parsing (--[\w-]+)\S*: (.*)", message):
        form = spelled[found[1]].spelled if found[1] in spelled else found[1]
        what = re.sub(r"^no type matching .* could be instantiated from \[(.*)\]\.?$", r"got \1", found[2].rstrip("."))
        what = re.sub(r"^could not convert string to float: (.*)$", r"got \1", what)
        return UserError(f"{found[1]}: {what}; expected {form}")
    if found := re.match(r"invalid choice '(.*)' for argument '(--[\w-]+)'", message):
        f = spelled.get(found[2])
        if f is not None:
            return UserError(f"{found[2]}: {unknown_name(f.name.replace('_', ' '), found[1], _choices(f.type))}")
    return UserError(message)


def _colorless(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return list(map(str, get_args(kind)))
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _missing(missing: Sequence[_Flag], prog: str) -> UserError:
    """One argument in one line; several one a line, each with its help."""
    if len(missing) == 1:
        return UserError(f"expected {missing[0].spelled}: {_lower_first(missing[0].help.rstrip('.'))}")
    missing = sorted(missing, key=lambda f: f.spelled.startswith("-"))  # as they stand in a command: flags last
    width = max(len(f.spelled) for f in missing)
    lines = [f"expected {len(missing)} arguments that are missing; {prog} --help lists all:"]
    for f in missing:
        begin = f"  {f.spelled:<{width}}  "
        lines.append(
            textwrap.fill(
                f.help,
                max(40, _columns()),
                initial_indent=begin,
                subsequent_indent=" " * len(begin),
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return UserError(*"\n".join(lines).split("\n"))


class _LikeStdout(io.TextIOWrapper):
    """Keeps what is printed; says of itself what standard output says, by which tyro chooses boxes and colors."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding=getattr(sys.stdout, "encoding", None) or "ascii", errors="replace")
        self._shows_colors = sys.stdout.isatty()

    def isatty(self) -> bool:
        return self._shows_colors

    def text(self) -> str:
        self.flush()
        return self._bytes.getvalue().decode(self.encoding, "replace")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _fitted(help_text: str) -> str:
    """The help with the sentences above its boxes wrapped, too."""
    lines = []
    for line in help_text.splitlines():
        if not line.strip(" │|") and line.strip():
            continue  # of a text that fills its line, and a default that is not said
        if len(line) > _columns() and line[:1].isalpha():
            indent = " " * 7 if line.startswith("usage: ") else ""
            line = textwrap.fill(
                line, _columns(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        lines.append(line)
    return "\n".join(lines) + "\n"
