"""Writes the cards of the weights in the package: `python -m benchmarks.study.cards [--work runs/study]`.

`python -m benchmarks.study.ship` has put the weights there. The cards go to `timm_asap/model_cards`.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

import timm_asap
from benchmarks.study.ship import shipped_records
from timm_asap._io import write_text
from timm_asap.evaluation.per_image import write_per_image
from timm_asap.evaluation.record import PER_IMAGE, RECORD, read_record, summarize
from timm_asap.hub.card import write_card

CARDS = Path(timm_asap.__file__).with_name("model_cards")


@dataclass(frozen=True)
class Options:
    """Write the cards of the weights in the package."""

    work: str = "runs/study"
    """Folder of the runs."""


def main() -> None:
    """Write the cards from what the study left."""
    work = Path(tyro.cli(Options).work)
    plain = None
    for name, record in shipped_records().items():
        folder = work / record.content["run"]
        join_evaluations(folder, ("clean", "robustness"))
        # elsewhere than in the run folder, whose plots are not shipped
        print(write_card(folder, against=plain, shipped_as=name, output=CARDS / f"{name}.md"))
        plain = plain or folder


def join_evaluations(folder: Path, parts: tuple[str, ...]) -> None:
    """Write the evaluation of a run folder from those of its parts, which lie in folders of their own.

    Args:
        folder: The run folder.
        parts: Of `benchmarks.study.measure.PARTS`.
    """
    records = [read_record(folder / part) for part in parts]
    results = [result for record in records for result in record.content["results"]]
    warnings = [text for record in records for text in record.content["summary"]["gradient_masking"]]
    commands = [record.content["produced_by"]["command"] for record in records]
    content = copy.deepcopy(records[-1].content)
    content |= {"results": results, "summary": summarize(results, warnings, None)}
    content["produced_by"]["command"] = "; ".join(commands)
    right, sample_ids = ({k: v for r in records for k, v in r.per_image()[which].items()} for which in (0, 1))
    write_per_image(folder / PER_IMAGE, right, sample_ids, content["model"]["weights_sha256"], {})
    write_text(folder / RECORD, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
