"""What is measured of each network of the study, on the same fixed test images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.common import RESULTS
from benchmarks.study.plan import StudyRun
from timm_asap.evaluation import EvaluateConfig, Record, evaluate
from timm_asap.training.files import replace_file, replace_text
from timm_asap.training.run_folder import RunFolder

RECORDS = RESULTS / "study"

#: 2,000 test images corrupted and shifted, 1,000 of them attacked; the clean accuracy is that of all 10,000.
SETTINGS: dict[str, Any] = {
    "measures": ("clean", "corruptions", "attacks", "shift", "aliasing"),
    "attacks": ("fgsm", "pgd"),
    "limit": 2000,
    "limit_attacks": 1000,
    "seed": 0,
    "plots": False,
}
#: The stronger attack, for one seed of each variant.
APGD: dict[str, Any] = {
    "measures": ("attacks",),
    "attacks": ("apgd-ce",),
    "eps": ("1/255", "4/255"),
    "limit": 2000,
    "limit_attacks": 1000,
    "seed": 0,
    "plots": False,
}


def measure(run: StudyRun, folder: Path, data_dir: str) -> Path:
    """Measure a trained network, and write its JSON.

    Args:
        run: Which one.
        folder: Its run folder.
        data_dir: Folder of the four Fashion-MNIST files.

    Returns:
        The JSON.
    """
    records = [_evaluate(folder, folder, data_dir, SETTINGS)]
    if run.seed == 0:
        records.append(_evaluate(folder, folder / "apgd", data_dir, APGD))
    record = records[0].content
    trained = RunFolder(folder)
    content = {
        "run": run.name,
        "variant": run.variant,
        "seed": run.seed,
        "attack_trained": run.attack_trained,
        "settings": run.settings(),
        "test": trained.result(),
        "epochs": trained.metrics(),
        "versions": record["produced_by"]["versions"],
        "hardware": record["produced_by"]["hardware"],
        "results": [result for record in records for result in record.content["results"]],
    }
    path = RECORDS / f"{run.name}.json"
    _write_answers(path.with_suffix(".safetensors"), records)
    replace_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _write_answers(path: Path, records: list[Record]) -> None:
    """Which images were right, a bit each: what paired intervals are computed from."""
    bits = {}
    for record in records:
        right, _ = record.per_image()
        bits |= {name: torch.from_numpy(np.packbits(values.numpy())) for name, values in right.items()}
    with replace_file(path) as aside:
        save_file(bits, aside)


def _evaluate(run_folder: Path, output: Path, data_dir: str, settings: dict[str, Any]) -> Record:
    config = EvaluateConfig(
        models=(str(run_folder),),
        dataset="fashion_mnist",
        data_dir=data_dir,
        output=str(output),
        resume=True,
        **settings,
    )
    (record,) = evaluate(config)
    return record
