"""`python -m timm_asap.timm SCRIPT [ARGUMENTS]`: a script of timm, or any other, with the twins registered.

timm's train.py, validate.py, inference.py, benchmark.py and onnx_export.py know the architectures that timm knows. Run
through this module they know the twins too, and nothing in them is changed. With several processes:
`torchrun --nproc-per-node 4 -m timm_asap.timm train.py ...`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import timm_asap
from timm_asap.errors import UserError, run_program
from timm_asap.text import as_text

_PROGRAM = "python -m timm_asap.timm"
_USAGE = f"usage: {_PROGRAM} SCRIPT [ARGUMENTS]"
_WHERE = "timm's scripts lie at the top level of its repository, not in its package: give the path to one there"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a script as Python would, after `import timm_asap`.

    Args:
        argv: The script and its arguments; by default those of this process.

    Returns:
        2 where there is no such script; otherwise what the script ends with is raised as SystemExit.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-h"], ["--help"]):
        print(f"{_USAGE}\n\nRuns a script of timm, such as validate.py, with the alias-free twins registered.")
        return 0
    script = None

    def prepare() -> int:
        nonlocal script
        if not words:
            raise UserError(f"{_USAGE}; {_WHERE}")
        script = Path(words[0])
        if not script.is_file():
            raise UserError(f"there is no file {as_text(words[0])}: {_WHERE}")
        timm_asap.register()
        return 0

    if (code := run_program(_PROGRAM, prepare)) or script is None:
        return code
    # as `python SCRIPT` has them
    sys.argv[:] = words
    sys.path.insert(0, str(script.resolve().parent))
    # what the script raises is its own
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
