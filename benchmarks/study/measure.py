"""What is measured of each network of the study, on the same fixed images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.common import RESULTS
from benchmarks.study.held_out import held_out_folder
from benchmarks.study.plan import StudyRun
from timm_asap._io import replace_file, write_text
from timm_asap.evaluation import EvaluateConfig, evaluate
from timm_asap.evaluation.record import RECORD, read_record
from timm_asap.training.run_folder import RunFolder


def measure(run: StudyRun, part: str, work: Path, data_dir: str) -> Path:
    """Measure a part of what is measured of a trained network, and write its JSON.

    Args:
        run: Which network.
        part: Of the study's; `held_out` on images of the training set that it never trained on, else on test images.
        work: Folder of the runs.
        data_dir: Folder of the study's data.

    Returns:
        The JSON.
    """
    data_dir = run.study.data_dir(data_dir, run.seed)
    images = str(held_out_folder(work, data_dir)) if part == "held_out" else data_dir
    folder = work / run.name
    settings = run.study.shared | run.study.parts[part]
    evaluate(EvaluateConfig(models=(str(folder),), data_dir=images, output=str(folder / part), resume=True, **settings))
    return write_json(run, work)


def is_measured(run: StudyRun, part: str, work: Path) -> bool:
    """Whether a part is there already."""
    return (work / run.name / part / RECORD).is_file()


def write_json(run: StudyRun, work: Path) -> Path:
    """Gather what is there of a run: a JSON, and beside it which images were right, a bit each.

    Args:
        run: Which network.
        work: Folder of the runs.

    Returns:
        The JSON.
    """
    trained = RunFolder(work / run.name)
    content: dict[str, Any] = {
        "run": run.name,
        "variant": run.variant,
        "seed": run.seed,
        "attack_trained": run.attack_trained,
        "settings": run.settings(),
        "training": trained.result(),
        "epochs": trained.metrics(),
    }
    bits = {}
    for part, part_settings in run.study.parts.items():
        if is_measured(run, part, work):
            record = read_record(trained.path / part)
            by = record.content["produced_by"]
            content["weights_sha256"] = record.content["model"]["weights_sha256"]
            content[part] = {"settings": part_settings, "results": record.content["results"], **_versions(by)}
            right, _ = record.per_image()
            # paired intervals are computed from them
            bits |= {f"{part}/{key}": torch.from_numpy(np.packbits(values.numpy())) for key, values in right.items()}
    path = RESULTS / run.study.name / f"{run.name}.json"
    with replace_file(path.with_suffix(".safetensors")) as aside:
        save_file(bits, aside)
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _versions(produced_by: dict[str, Any]) -> dict[str, Any]:
    return {key: produced_by[key] for key in ("versions", "hardware")}
