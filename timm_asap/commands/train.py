"""`timm-asap train`, and `train.py` of a checkout: trains, writes the card, and says how to load the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import timm_asap
from timm_asap._startup import importing
from timm_asap.errors import UserError
from timm_asap.training.command_line import parse, program, resume_command
from timm_asap.training.config import TrainConfig


def main(argv: Sequence[str]) -> None:
    """Train as the command line says.

    Args:
        argv: The words after the program's name.

    Raises:
        UserError: Where the user can put something right.
        KeyboardInterrupt: Where Ctrl-C came before the first step, or twice; its text says how to go on.
    """
    config = parse(argv, prog=program())
    # torch and timm: not for the help
    with importing(program()):
        timm_asap.register()
        from timm_asap.evaluation.statistics import below_chance
        from timm_asap.hub import write_card
        from timm_asap.screen import print_text
        from timm_asap.training.loop import train
        from timm_asap.training.plan import describe, make_plan

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
        print(f"stopped, and saved in epoch {result.epochs + 1}; to continue: {resume_command(result.run_folder)}")
        return
    print_text(
        f"accuracy {result.test_accuracy:.2f} % on {result.test_name} ({result.test_images:,} images) "
        f"after {result.epochs} epoch{'' if result.epochs == 1 else 's'}, {result.seconds:.0f} s"
    )
    print(result.load_line)
    if result.test_accuracy is None or result.test_images is None:
        return
    if doubt := below_chance(result.test_accuracy, result.test_images, result.classes):
        print(f"{program()}: {doubt}", file=sys.stderr)


def _interrupted(config: TrainConfig) -> str:
    from timm_asap.training.run_folder import RunFolder

    folder = RunFolder(config.run_folder)
    try:
        kept = folder.checkpoints.files()
    except (OSError, UserError):
        kept = []
    if kept:
        return f"interrupted; {kept[0]} is kept. To continue: {resume_command(folder.path)}"
    return "interrupted before the first checkpoint: nothing was kept, start it again with the same flags"
