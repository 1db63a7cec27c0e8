"""Train an image classifier and write its run folder: `python train.py --help` lists the flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit code: 0; 2 where the user can put something right; 130 where Ctrl-C stopped it at once.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # torch and timm take seconds to import, and Ctrl-C may come before they are there
        from timm_asap.commands.train import run
        from timm_asap.errors import run_program
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("train.py: interrupted before it began: nothing was written", file=sys.stderr)
        return 130
    return run_program("train.py", lambda: run(words))


if __name__ == "__main__":
    raise SystemExit(main())
