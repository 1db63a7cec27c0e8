"""Start and stop of the package's own programs, `timm-asap` and `train.py`.

They read their flags before they load torch and timm. Ctrl-C during those imports ends the program at once with one
line: a KeyboardInterrupt in the middle of an import leaves libraries half made, and nothing has been written by then.
Later, SIGINT and SIGTERM alike ask the program to stop at the next good moment, and end it when they come again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import Any

from timm_asap._renamed import older_name
from timm_asap.errors import missing_package

__all__ = ["importing", "lazy_names", "own_program", "reads_flags_first"]


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


def own_program() -> str | None:
    """The name of this package's program that is running; None where somebody else's imports the package."""
    if not reads_flags_first():
        return None
    return "train.py" if Path(sys.argv[0]).name == "train.py" else "timm-asap"


@contextmanager
def importing(program: str | None) -> Iterator[None]:
    """End the program on Ctrl-C within the block, in one line and with exit code 130.

    Args:
        program: Its name; None, and a program that has a handler of its own, changes nothing.
    """
    ours = program is not None and threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if os.environ.get("RANK", "0") == "0":
            os.write(2, f"{program}: interrupted before it began: nothing was written\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# A launcher and the terminal may both pass on the one Ctrl-C that a user gave.
_SAME_REQUEST_S = 2.0


class StopRequest:
    """Notices SIGINT and SIGTERM while it is entered; whoever asks `asked` stops at the next good moment.

    A second signal, more than two seconds after the first, raises KeyboardInterrupt where the program stands.

    Args:
        at_once: Raise KeyboardInterrupt at the first signal, too; those of the two seconds after it are the same
            request, and do not disturb what is saved then.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.asked = False
        self.at_once = at_once
        self._first_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            self._first_at = time.monotonic()
            if self.at_once:
                raise KeyboardInterrupt
        elif time.monotonic() - self._first_at > _SAME_REQUEST_S:
            raise KeyboardInterrupt
