"""Train an image classifier and write its run folder: `python train.py --help` lists the flags."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit code: 0; 2 where the user can put something right; 130 where Ctrl-C stopped it at once.
    """
    from timm_asap.commands.train import run
    from timm_asap.errors import run_program

    words = list(sys.argv[1:] if argv is None else argv)
    return run_program("train.py", lambda: run(words))


def _stop(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"train.py: interrupted before it began: nothing was written\n")
    os._exit(130)


if __name__ == "__main__":
    # Torch and timm take seconds to import, and a KeyboardInterrupt leaves them half made: Ctrl-C ends the program
    # at once until they are there, as nothing has been written by then.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    importlib.import_module("timm_asap.commands.train")
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(main())
