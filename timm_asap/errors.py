"""What users meet at the command line: one exception, the wording of its commonest case, and exit codes."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from timm_asap._installation import InstallationError, installation_fault
from timm_asap.text import as_text

REFUSED = 2
"""Exit code of a program that the user can put right."""

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 and the signal's number."""


class UserError(ValueError):
    """Something the user can put right: the command line prints it as one line and exits with code 2.

    The text says what was expected, what came and what to do, and holds no line break.

    Args:
        message: The line.
        *list_of: Lines below it, where several things are wrong at once: the arguments that are missing.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


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


# What the core does without, as it is imported and as it is installed.
_OPTIONAL = {
    "accelerate": "accelerate",
    "datasets": "datasets",
    "docstring_parser": "docstring-parser",
    "gradio": "gradio",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "pyautoattack": "pyautoattack",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "tyro": "tyro",
}


def missing_package(error: ModuleNotFoundError) -> str | None:
    """The package whose absence an import failed of, as it is installed; None where no extra of this package has it."""
    return _OPTIONAL.get((error.name or "").partition(".")[0])


def check_seed(seed: int) -> None:
    """See that every random generator takes a seed: Python's, NumPy's and PyTorch's.

    Raises:
        UserError: If it is negative, or has more than 32 bits, which NumPy does not take.
    """
    if seed < 0:
        raise UserError(f"--seed: expected 0 or more, got {seed}")
    if seed >= 2**32:
        raise UserError(f"--seed: expected at most {2**32 - 1}, got {seed}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def run_program(name: str, program: Callable[[], int | None]) -> int:
    """Run what a command line asked for, and bring whatever a user can put right to one line on standard error.

    Args:
        name: The program, as the line begins with it.
        program: Returns its exit code; None is 0. A KeyboardInterrupt that it raises may hold what the line says.

    Returns:
        The exit code: 2 where the user can put something right, a full disk or a missing right included; 130 after
        Ctrl-C.
    """
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        # a terminal that has no letter for a name shows its code, and the program goes on
        if hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    with _noticing_interrupts() as interrupted:
        try:
            return program() or 0
        except KeyboardInterrupt as stop:
            return _say(name, str(stop) or "interrupted", INTERRUPTED)
        except Exception as error:
            if interrupted and not isinstance(error, UserError):
                # in the middle of an import, or of somebody's destructor, Ctrl-C becomes an error of any other kind
                return _say(name, "interrupted", INTERRUPTED)
            if isinstance(error, BrokenPipeError):
                # who reads the output has gone, as `| head` does: nothing more can be said, by Python at its end either
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return REFUSED
            if (line := _line(error)) is None:
                raise
            return _say(name, f"error: {line}", REFUSED)


@contextmanager
def _noticing_interrupts() -> Iterator[list[int]]:
    """Ctrl-C within the block makes a list longer, besides its usual effect; a handler of somebody else stays."""
    seen: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    usual = threading.current_thread() is threading.main_thread()
    usual = usual and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, notice)
    try:
        yield seen
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _line(error: Exception) -> str | None:
    """What to say of an error that a user can put right; None of any other."""
    if isinstance(error, UserError):
        lines = [as_text(line) for line in error.args] or [""]
        return "\n".join(lines)
    if isinstance(error, InstallationError):
        return str(error)
    if isinstance(error, ImportError) and (line := installation_fault(error)) is not None:
        return line
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or first_line(error)}"
    # PyTorch's way to say that /dev/shm is full, as it is in containers that get 64 MB of it
    if isinstance(error, RuntimeError) and "file </torch_" in str(error):
        return f"no room in shared memory ({first_line(error)}): give /dev/shm more"
    return None


def _say(name: str, text: str, code: int) -> int:
    """Print a line, in one process alone of those of `accelerate launch`."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{name}: {text}", file=sys.stderr)
    return code
