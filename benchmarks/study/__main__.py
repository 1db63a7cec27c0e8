"""Train and measure every network of the study; what is there already is not done again.

    python -m benchmarks.study --data-dir DIR [--work runs/study] [--only plain.seed0 asap.seed0]

Each run leaves its folder under `--work` and one JSON under `benchmarks/results/study/`. Interrupted, it goes on where
it was. Several may run side by side: each takes the next run that nobody has taken. A network took 18 minutes of a core
with bfloat16 instructions (AVX-512), all of it some eight hours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.study import networks  # noqa: F401 (registers the rivals)
from benchmarks.study.measure import is_measured, measure
from benchmarks.study.plan import FASHION, Study, StudyRun
from timm_asap.training import TrainConfig, train


@dataclass(frozen=True)
class Options:
    """Train and measure the networks of the study."""

    data_dir: str
    """Folder of the four Fashion-MNIST files."""
    work: str = "runs/study"
    """Folder of the runs."""
    only: tuple[str, ...] = ()
    """Names of runs, such as plain.seed0; by default all."""


def main() -> None:
    """Do what is left."""
    carry_out(FASHION, tyro.cli(Options))


def carry_out(study: Study, options: Options) -> None:
    """Train and measure what is left of a study."""
    work = Path(options.work)
    for stage in study.stages:
        for run in study.runs():
            parts = [part for part in stage if run.wants(part) and not is_measured(run, part, work)]
            if not parts or (options.only and run.name not in options.only):
                continue
            with _claim(work, run) as mine:
                if mine:
                    _train(options, run)
                    for part in parts:
                        measure(run, part, work, options.data_dir)
                        print(f"{run.name}: {part}", flush=True)


def _train(options: Options, run: StudyRun) -> None:
    folder = Path(options.work) / run.name
    if not (folder / "result.json").is_file():
        data_dir = run.study.data_dir(options.data_dir, run.seed)
        train(TrainConfig(**run.settings(), data_dir=data_dir, output=str(folder), resume=True))
        if not (folder / "result.json").is_file():  # a signal: its state is saved
            raise SystemExit(f"{run.name}: stopped; the same command goes on from here")
        print(f"{run.name}: trained", flush=True)


@contextmanager
def _claim(work: Path, run: StudyRun) -> Iterator[bool]:
    """Whether nobody else works on a run; a claim lasts as long as its process."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f".{run.name}.pid"
    try:
        taken_by = int(path.read_text())
        os.kill(taken_by, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        path.write_text(str(os.getpid()))
    else:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
