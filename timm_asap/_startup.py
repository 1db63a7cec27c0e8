"""Whether this process is one of the package's own programs, which read their flags before they load torch and timm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from timm_asap._renamed import older_name
from timm_asap.errors import missing_package

__all__ = ["lazy_names", "reads_flags_first"]

# which holds what any name of the package needs, but for the demo and ONNX, whose own modules say so
_EXTRA = "train"

_TAKE_A_VALUE = ("-W", "-X", "--check-hash-based-pycs")


def reads_flags_first(words: Sequence[str] | None = None) -> bool:
    """Whether a process was started as `timm-asap`, `python -m timm_asap` or the `train.py` of this checkout.

    Help, `--version` and refused flags then answer in a fraction of a second instead of the four that torch and timm
    take to import. Every other program that imports the package has its twins registered by that import.

    Args:
        words: The command line that Python was started with; by default that of this process.
    """
    rest = list(sys.orig_argv if words is None else words)[1:]
    while rest:
        word = rest.pop(0)
        if word == "-m":
            return bool(rest) and rest[0].split(".")[0] == "timm_asap"
        if word == "-c":
            return False
        if word in _TAKE_A_VALUE:
            rest = rest[1:]
        elif not word.startswith("-"):
            return _is_own_script(Path(word))
    return False


def _is_own_script(script: Path) -> bool:
    if script.name.removesuffix(".exe") == "timm-asap":
        return True
    own = Path(__file__).resolve().parents[1]
    # "train.py" alone is what many projects call theirs
    return script.name == "train.py" and script.resolve().parent == own and (own / "pyproject.toml").is_file()


def lazy_names(
    package: str, modules: Mapping[str, str], renamed: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that imports a public name when it is first asked for.

    Args:
        package: The module's `__name__`.
        modules: The module that each name comes from.
        renamed: What names of older versions are called now; each use warns.
    """

    def find(name: str) -> Any:
        if name in renamed:
            older_name(f"{package}.{name}", renamed[name])
            return getattr(sys.modules[package], renamed[name])
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            if (missing := missing_package(error)) is None:
                raise
            line = f"{package}.{name} needs {missing}, which is not installed: pip install 'timm_asap[{_EXTRA}]'"
            raise ModuleNotFoundError(line, name=error.name) from error
        setattr(sys.modules[package], name, value)
        return value

    return find
