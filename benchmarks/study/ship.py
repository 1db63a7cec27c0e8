"""Puts the best network of each shipped variant into the package: `python -m benchmarks.study.ship`.

The best is the seed with the highest held-out accuracy. Its weights and configuration go to `timm_asap/zoo/weights`;
`python -m benchmarks.study.cards` then writes its card.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.study.plan import SHIPPED, VARIANTS
from benchmarks.study.results import StudyRecord, load_records
from timm_asap.zoo.shipped import WEIGHTS


@dataclass(frozen=True)
class Options:
    """Put the best network of each shipped variant into the package."""

    work: str = "runs/study"
    """Folder of the runs."""


def shipped_records() -> dict[str, StudyRecord]:
    """The records of the networks that are shipped, by the name that they have in timm; the plain network first."""
    records = load_records()
    best = {name: max(records[name], key=lambda record: record.held_out_accuracy) for name in SHIPPED}
    return {f"{VARIANTS[name].model}.fashion_mnist": record for name, record in best.items()}


def main() -> None:
    """Copy what their runs exported."""
    work = Path(tyro.cli(Options).work)
    WEIGHTS.mkdir(exist_ok=True)
    for name, record in shipped_records().items():
        folder = work / record.content["run"]
        shutil.copyfile(folder / "model.safetensors", WEIGHTS / f"{name}.safetensors")
        shutil.copyfile(folder / "config.json", WEIGHTS / f"{name}.json")
        print(f"{name}: {record.content['run']}, {record.held_out_accuracy:.2f} % of the held-out images")


if __name__ == "__main__":
    main()
