"""Train an image classifier and write its run folder: `python train.py --help` lists the flags.

The same program as `timm-asap train`, for whoever works in a checkout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from timm_asap.cli import run_command
from timm_asap.errors import run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit code: 0; 2 where the user can put something right; 130 where Ctrl-C stopped it at once.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_program("train.py", lambda: run_command("train", words, program="train.py"))


if __name__ == "__main__":
    raise SystemExit(main())
