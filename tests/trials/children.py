"""Programs of the package in forked children that can be killed, starved of disk and stripped of rights."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534

# Events of the interpreter that change a folder, by CPython's names for them.
_CHANGES = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"})


@dataclass(frozen=True)
class Done:
    """How a program ended.

    Args:
        code: Its exit code; minus the signal that ended it.
        out: Its standard output.
        err: Its standard error.
    """

    code: int
    out: str
    err: str

    @property
    def is_right(self) -> bool:
        """Whether it did what it was asked for."""
        return self.code == 0

    @property
    def is_one_line(self) -> bool:
        """Whether it refused in one line, with exit code 2."""
        told = [line for line in self.err.splitlines() if line and not _is_notice(line)]
        return self.code == 2 and len(told) == 1 and ": error: " in told[0]


def _is_notice(line: str) -> bool:
    """Progress of a library, and Python's own warnings with the line of code that they show."""
    return "examples/s" in line or "files/s" in line or "Warning: " in line or line.startswith("  warnings.warn(")


def run(main: Callable[[list[str]], int], words: Sequence[object], before: Callable[[], None] | None = None,
        timeout_s: float = 120) -> Done:  # fmt: skip
    """Run a program in a child of this process, which has imported everything already.

    Args:
        main: Takes the words and returns the exit code.
        words: The command line.
        before: Called in the child first: to set limits, drop rights, or plan its death.
        timeout_s: It is killed after so long, and counts as failed.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = start(main, words, before, out.fileno(), err.fileno())
        until = time.monotonic() + timeout_s
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                ended = os.waitpid(pid, 0)
                break
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(ended[1])
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    return Done(code, *texts)


def start(main: Callable[[list[str]], int], words: Sequence[object], before: Callable[[], None] | None = None,
          out: int | None = None, err: int | None = None) -> int:  # fmt: skip
    """As `run`, without waiting: the id of the child."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent if out is None else out, 1)
        os.dup2(silent if err is None else err, 2)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(1, "wb"), "utf-8"),
            io.TextIOWrapper(os.fdopen(2, "wb"), "utf-8", line_buffering=True),
        )
        if before is not None:
            before()
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def die_at(number: int, folder: Path) -> Callable[[], None]:
    """The child kills itself before the given change of files in a folder, counted from 1.

    Args:
        number: Of the change.
        folder: Where it counts them.
    """

    def plan() -> None:
        seen = [0]
        inside = str(folder.resolve())

        def hook(event: str, args: tuple) -> None:
            if event not in _CHANGES or not isinstance(args[0], (str, bytes, os.PathLike)):
                return
            if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            if not os.path.abspath(os.fsdecode(args[0])).startswith(inside):
                return
            seen[0] += 1
            if seen[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return plan


def limit_files(size: int) -> Callable[[], None]:
    """No file of the child grows beyond so many bytes, as on a disk with little room."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def as_nobody() -> None:
    """The child loses the rights of root, for whom no folder is read-only."""
    os.environ["HOME"] = "/nonexistent"
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
