"""Train an image classifier and write its run folder: `python train.py --help` lists the flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from timm_asap.errors import UserError
from timm_asap.evaluation.intervals import below_chance
from timm_asap.hub import write_card
from timm_asap.training import describe, make_plan, parse, resume_command, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit code: 0, or 2 where the user can put something right.
    """
    try:
        config = parse(sys.argv[1:] if argv is None else argv)
        if config.dry_run:
            print(describe(make_plan(config)))
            return 0
        result = train(config)
        if result.is_main_process and result.stopped:
            print(f"stopped, and saved in epoch {result.epochs + 1}; go on with: {resume_command(result.run_folder)}")
        elif result.is_main_process:
            write_card(result.run_folder)
            print(
                f"accuracy {result.test_accuracy:.2f} % on {result.test_name} ({result.test_images:,} images) "
                f"after {result.epochs} epochs, {result.seconds:.0f} s"
            )
            print(result.load_line)
            if doubt := below_chance(result.test_accuracy, result.test_images, result.classes):
                print(f"train.py: {doubt}", file=sys.stderr)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # under `accelerate launch`, one process speaks for all
            print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
