"""`timm-asap train`, and `train.py` of a checkout: trains an image classifier and writes its run folder."""

from __future__ import annotations

from collections.abc import Sequence

from timm_asap.training.command_line import parse, program, resume_command


def main(argv: Sequence[str]) -> None:
    """Train, write the card, and say what was reached and how to load it.

    Args:
        argv: The words after the program's name.

    Raises:
        UserError: Where the user can put something right.
    """
    config = parse(argv, prog=program())
    # torch and timm: not for the help
    import timm_asap

    timm_asap.register()
    from timm_asap.hub.card import write_card
    from timm_asap.training.loop import train
    from timm_asap.training.plan import describe, make_plan

    if config.dry_run:
        print(describe(make_plan(config)))
        return
    result = train(config)
    if not result.is_main_process:
        return
    if result.stopped:
        print(f"stopped, and saved in epoch {result.epochs + 1}; to continue: {resume_command(result.run_folder)}")
        return
    write_card(result.run_folder)
    print(
        f"accuracy {result.test_accuracy:.2f} % on {result.test_name} ({result.test_images:,} images) "
        f"after {result.epochs} epochs, {result.seconds:.0f} s"
    )
    print(result.load_line)
