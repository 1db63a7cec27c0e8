"""Programs of the package in forked children that can be killed, starved of disk and stripped of rights."""

from __future__ import annotations

import codecs
import io
import os
import re
import resource
import select
import signal
import sys
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
    """What a program says while it works, progress of a library, and Python's own warnings with their line of code."""
    if re.match(r"timm-asap \w+: ", line):
        return True
    # the Hub is asked again: our lines and the client's
    if re.search(
        r"(asking again|looking whether it was made), \d of \d$|^Retrying in \d+s|thrown while requesting", line
    ):
        return True
    return "examples/s" in line or "files/s" in line or "Warning: " in line or line.startswith("  warnings.warn(")


def run(main: Callable[[list[str]], int], words: Sequence[object], before: Callable[[], None] | None = None,
        timeout_s: float = 600) -> Done:  # fmt: skip
    """Run a program in a child of this process, which has imported everything already.

    Args:
        main: Takes the words and returns the exit code.
        words: The command line.
        before: Called in the child first: to set limits, drop rights, or plan its death.
        timeout_s: It is killed after so long, and counts as failed.
    """
    # pipes, not files: a limit on files would be one on what the child says
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    pid = start(main, words, before, out_end, err_end)
    os.close(out_end)
    os.close(err_end)
    texts, until = {out: b"", err: b""}, time.monotonic() + timeout_s
    open_ends = set(texts)
    while open_ends:
        ready, _, _ = select.select(list(open_ends), [], [], max(0.0, until - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            until += 10
        for end in ready:
            came = os.read(end, 65536)
            texts[end] += came
            if not came:
                open_ends.discard(end)
                os.close(end)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Done(code, *(text.decode(errors="replace") for text in texts.values()))


def start(main: Callable[[list[str]], int], words: Sequence[object], before: Callable[[], None] | None = None,
          out: int | None = None, err: int | None = None) -> int:  # fmt: skip
    """As `run`, without waiting: the id of the child."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:  # whatever happens, the child must not go on as its parent
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent if out is None else out, 1)
        os.dup2(silent if err is None else err, 2)
        for stream in ("stdout", "stderr"):
            end = os.fdopen(1 if stream == "stdout" else 2, "wb")
            setattr(sys, stream, io.TextIOWrapper(end, "utf-8", line_buffering=True))
        try:
            if before is not None:
                before()
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
    finally:
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
    for codec in ("idna", "unicode-escape", "raw-unicode-escape", "ascii", "latin-1", "utf-16"):
        codecs.lookup(codec)  # Python itself may lie where only root may read
    os.environ["HOME"] = "/nonexistent"
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
