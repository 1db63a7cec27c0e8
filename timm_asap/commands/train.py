"""`train.py`: trains, writes the card, and says how to load the model or how to go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from timm_asap.errors import UserError
from timm_asap.evaluation.intervals import below_chance
from timm_asap.hub import write_card
from timm_asap.training import TrainConfig, describe, make_plan, parse, resume_command, train
from timm_asap.training.run_folder import RunFolder


def run(argv: Sequence[str]) -> None:
    """Train as the command line says.

    Args:
        argv: The words after the program's name.

    Raises:
        UserError: Where the user can put something right.
        KeyboardInterrupt: Where Ctrl-C came before the first step, or twice; its text says how to go on.
    """
    config = parse(argv)
    if config.dry_run:
        print(describe(make_plan(config)))
        return
    try:
        result = train(config, then=write_card)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_interrupted(config)) from None
    if not result.is_main_process:
        return
    if result.stopped:
        print(f"stopped, and saved in epoch {result.epochs + 1}; go on with: {resume_command(result.run_folder)}")
        return
    print(
        f"accuracy {result.test_accuracy:.2f} % on {result.test_name} ({result.test_images:,} images) "
        f"after {result.epochs} epochs, {result.seconds:.0f} s"
    )
    print(result.load_line)
    if doubt := below_chance(result.test_accuracy, result.test_images, result.classes):
        print(f"train.py: {doubt}", file=sys.stderr)


def _interrupted(config: TrainConfig) -> str:
    folder = RunFolder(config.run_folder)
    try:
        kept = folder.checkpoints.files()
    except (OSError, UserError):
        kept = []
    if kept:
        return f"interrupted; {kept[0]} is kept. Go on with: {resume_command(folder.path)}"
    return "interrupted before the first checkpoint: nothing was kept, start it again with the same flags"
