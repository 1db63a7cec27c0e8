"""`timm-asap evaluate MODEL ...`: how robust models are, as records, tables and plots."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from timm_asap._interrupt import StopRequest
from timm_asap.command_line import given_fields, parse
from timm_asap.errors import INTERRUPTED
from timm_asap.evaluation.config import EvaluateConfig
from timm_asap.evaluation.finish import launcher
from timm_asap.evaluation.processes import Processes
from timm_asap.evaluation.run import evaluate
from timm_asap.evaluation.table import print_records, wide_console


def main(argv: Sequence[str]) -> None:
    """Measure, write and print.

    Raises:
        SystemExit: With code 130 where Ctrl-C ended it.
    """
    config = parse(EvaluateConfig, argv, prog="timm-asap evaluate").given_as(given_fields(argv, EvaluateConfig))
    processes = Processes(config.device)
    try:
        with StopRequest(at_once=True):  # SIGTERM, too, ends it with what was measured kept
            records = evaluate(config)
    except KeyboardInterrupt:
        if processes.is_main:
            again = shlex.join([*launcher(processes), "evaluate", *config.flags(resume=True, overwrite=False)])
            print(f"interrupted; what was measured is kept. To go on:\n{again}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if records:
        print_records(records, wide_console())
        for record in records:
            if doubt := record.content["summary"].get("below_chance"):
                print(f"{record.name}: {doubt}", file=sys.stderr)
            print(f"wrote {record.path}")
