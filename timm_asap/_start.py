"""Ctrl-C while a program of this package is still being imported is one line, with nothing of torch's or NumPy's in it.

A KeyboardInterrupt in the middle of an import leaves libraries half made, and what they then raise is anything. Nothing
has been written by then, so the program ends at once instead.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from timm_asap._startup import reads_flags_first

__all__ = ["importing", "own_program"]


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
