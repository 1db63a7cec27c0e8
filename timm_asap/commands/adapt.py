"""`timm-asap adapt MODEL`: teaches a twin the plain network's predictions, on images without labels."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from timm_asap._startup import importing, own_program
from timm_asap.command_line import parse
from timm_asap.training.adapt_options import AdaptConfig


def main(argv: Sequence[str]) -> None:
    """Adapt, write, and print what it brought."""
    config = parse(AdaptConfig, argv, prog="timm-asap adapt")
    with importing(own_program()):
        from timm_asap.healing.adapt import run_adaptation
        from timm_asap.hub import write_card

    result = run_adaptation(config)
    if not result.is_main_process:
        return
    if result.stopped:
        again = f"timm-asap adapt --output {shlex.quote(str(result.run_folder))} --resume"
        print(f"stopped, and saved after step {result.steps:,}; continue with: {again}")
        return
    write_card(result.run_folder)
    print(f"before: {result.before}")
    print(f"after:  {result.after}")
    if result.after is None or not result.after.is_better_than(result.before):
        print("this did not help: more images, more steps or a lower --lr may")
    elif result.at_first_step is not None and result.at_first_step.is_better_than(result.after):
        print(f"the closed-form repair alone was closer: {result.at_first_step}")
        print("more images, more steps or a lower --lr may help; timm-asap heal --refit-all is that repair")
    print(result.load_line)
