"""Fault-injection trials: `python -m tests.trials --help`.

A trial is right if the program did what it was asked for and nothing that was there is harmed; one line with exit code
2 is right where nothing better can be done. Everything else has failed, and is printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_PACKAGES = ("torch", "timm", "huggingface_hub", "safetensors", "datasets", "pillow", "numpy")


def main() -> int:
    """Run the trials and print the count; 1 where one failed."""
    sys.path.insert(0, str(_TESTS.parent))
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    import torch

    from tests import conftest  # the Hub on 127.0.0.1, before anything imports the Hub's client
    from tests.trials import runs, strangers
    from tests.trials.count import table

    kinds = (*runs.KINDS, *strangers.KINDS)
    parser = argparse.ArgumentParser(prog="python -m tests.trials", description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"which trials, by default all: {', '.join(kinds)}")
    parser.add_argument("--count", type=int, default=4, help="about how many of each kind, some take several times it")
    parser.add_argument("--seed", type=int, default=0, help="of whatever is random")
    parser.add_argument("--output", type=Path, help="write the table and the versions there")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(kinds):
        parser.error(f"unknown kind {unknown.pop()}: expected {', '.join(kinds)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts, seconds = [], []
    with tempfile.TemporaryDirectory(prefix="timm_asap_trials_") as work:
        os.chmod(work, 0o755)
        trials = runs.Trials(Path(work), options.count, options.seed)
        others = strangers.Strangers(trials, conftest._HUB)
        for kind in options.kinds or kinds:
            began = time.monotonic()
            counts.append(getattr(trials if kind in runs.KINDS else others, kind)())
            seconds.append(time.monotonic() - began)
            for failure in counts[-1].failures:
                print(f"FAILED {counts[-1].kind}, {failure}")
            print(table(counts[-1:], seconds[-1:]).splitlines()[2], flush=True)
            if options.output:  # after each kind: all of them take many minutes
                options.output.write_text(_page(options, table(counts, seconds)), encoding="utf-8")
    conftest.pytest_unconfigure()
    print(f"\n{table(counts, seconds)}")
    return int(any(count.failures for count in counts))


def _page(options: argparse.Namespace, text: str) -> str:
    found = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    words = " ".join(["python -m tests.trials", *options.kinds, f"--count {options.count} --seed {options.seed}"])
    return f"# Fault-injection trials\n\n`{words}`, Python {platform.python_version()}, {found}:\n\n{text}\n"


if __name__ == "__main__":
    raise SystemExit(main())
