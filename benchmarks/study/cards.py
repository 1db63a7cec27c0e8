"""Evaluates the weights in the package and writes their cards: `python -m benchmarks.study.cards --data-dir DIR`.

`python -m benchmarks.study.ship` has put them there. The cards go to `timm_asap/model_cards`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

import timm_asap
from benchmarks.study.measure import PARTS, SHARED
from benchmarks.study.ship import shipped_records
from timm_asap.evaluation import EvaluateConfig, evaluate
from timm_asap.hub.card import write_card

CARDS = Path(timm_asap.__file__).with_name("model_cards")


@dataclass(frozen=True)
class Options:
    """Evaluate the weights in the package, and write their cards."""

    data_dir: str
    """Folder of the four Fashion-MNIST files."""
    work: str = "runs/study"
    """Folder of the runs."""


def main() -> None:
    """Measure what is not measured yet, and write the cards."""
    options = tyro.cli(Options)
    plain = None
    for name, record in shipped_records().items():
        folder = Path(options.work) / record.content["run"]
        settings = SHARED | {"limit": PARTS["robustness"]["limit"]}
        evaluate(EvaluateConfig(models=(name,), data_dir=options.data_dir, output=str(folder), resume=True, **settings))
        # elsewhere than in the run folder, whose plots are not shipped
        print(write_card(folder, against=plain, shipped_as=name, output=CARDS / f"{name}.md"))
        plain = plain or folder


if __name__ == "__main__":
    main()
