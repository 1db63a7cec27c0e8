"""`timm-asap evaluate MODEL ...`: how robust models are, as records, tables and plots."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from timm_asap._startup import StopRequest
from timm_asap.command_line import given_fields, parse
from timm_asap.errors import INTERRUPTED, UserError
from timm_asap.evaluation.config import EvaluateConfig


def main(argv: Sequence[str]) -> None:
    """Measure, write and print.

    Raises:
        SystemExit: With code 130 where Ctrl-C ended it.
    """
    config = parse(EvaluateConfig, argv, prog="timm-asap evaluate").given_as(given_fields(argv, EvaluateConfig))
    # torch and timm: not for the help
    from timm_asap.evaluation.finish import launcher
    from timm_asap.evaluation.measurements import Processes
    from timm_asap.evaluation.run import evaluate
    from timm_asap.evaluation.table import print_records
    from timm_asap.screen import screen

    processes = Processes(config.device)
    try:
        with StopRequest(at_once=True):  # SIGTERM, too, ends it with what was measured kept
            records = evaluate(config)
    except KeyboardInterrupt:
        if processes.is_main:
            again = shlex.join([*launcher(processes), "evaluate", *config.flags(resume=True, overwrite=False)])
            print(f"interrupted; what was measured so far is kept. To continue:\n{again}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if records:
        print_records(records, screen())
        for record in records:
            if doubt := record.content["summary"].get("below_chance"):
                print(f"{record.name}: {doubt}", file=sys.stderr)
            print(f"wrote {record.path}")
            _renew_card(record.path.parent)


def _renew_card(folder: Path) -> None:
    """The card of a run says that robustness was not measured: write it anew, or say what stands in the way."""
    from timm_asap.hub.card import write_card
    from timm_asap.hub.cards.records import is_run

    if not is_run(folder):
        return
    try:
        print(f"wrote {write_card(folder)}")
    except UserError as error:
        print(f"{folder / 'README.md'} is as it was: {error}")
        print(f"to write it anew: timm-asap card {shlex.quote(str(folder))}")
