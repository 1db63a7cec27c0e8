"""What is measured of each network of the study, on the same fixed test images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.study.plan import StudyRun
from timm_asap.evaluation import EvaluateConfig, evaluate
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
    record = _evaluate(folder, folder, data_dir, SETTINGS)
    results = list(record["results"])
    if run.seed == 0:
        results += _evaluate(folder, folder / "apgd", data_dir, APGD)["results"]
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
        "results": results,
    }
    path = RECORDS / f"{run.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _evaluate(run_folder: Path, output: Path, data_dir: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = EvaluateConfig(
        models=(str(run_folder),),
        dataset="fashion_mnist",
        data_dir=data_dir,
        output=str(output),
        resume=True,
        **settings,
    )
    (record,) = evaluate(config)
    return json.loads(record.path.read_text(encoding="utf-8"))
