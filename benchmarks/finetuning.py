"""Fashion-MNIST weights fine-tuned to the digits, plain against twin: `python -m benchmarks.finetuning`.

Question: is the shipped twin as good a start as the shipped plain network, and does its robustness survive the move?
Both are trained by the recipe of the digits, from the shipped weights and from random ones, for 1 and for 5 epochs,
and measured on the 360 held-out digits. Writes `benchmarks/results/finetuning.json`; runs that are there already are
used again.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.common import RESULTS
from benchmarks.markdown import mean_and_sd, table
from timm_asap._io import write_text
from timm_asap.evaluation import EvaluateConfig, evaluate
from timm_asap.training import TrainConfig, train
from timm_asap.training.config import find_recipe, read_recipe
from timm_asap.training.run_folder import RunFolder

RECORD = RESULTS / "finetuning.json"

NETWORKS = {"plain stride": "resnet20_lowres.fashion_mnist", "ASAP, preserve": "resnet20_lowres_asap.fashion_mnist"}
STARTS = {"Fashion-MNIST": True, "random": False}
EPOCHS = (1, 5)
SEEDS = (0, 1, 2)
SETTINGS: dict[str, Any] = {
    "measures": ("clean", "corruptions", "attacks", "shift"),
    "attacks": ("fgsm", "pgd"),
    "eps": ("1/255", "4/255", "8/255"),
    "dataset": "digits",
    "channels_last": True,
    "plots": False,
}
COLUMNS = {
    "clean": "clean",
    "15 corruptions": "corruption/",
    "FGSM": "attack/fgsm-linf/",
    "PGD-20": "attack/pgd-linf/",
    "circular shift": "shift/circular/",
}


@dataclass(frozen=True)
class Options:
    """Fine-tune the shipped networks to the digits, and measure."""

    work: str = "runs/finetuning"
    """Folder of the runs."""


def main() -> None:
    """Train, measure and write."""
    work = Path(tyro.cli(Options).work)
    runs = [
        _run(work, title, start, epochs, seed)
        for title in NETWORKS
        for start in STARTS
        for epochs in EPOCHS
        for seed in SEEDS
    ]
    write_text(RECORD, json.dumps({"settings": SETTINGS, "runs": runs}, indent=1) + "\n")
    print(finetuning_table(load_record()))


def _run(work: Path, title: str, start: str, epochs: int, seed: int) -> dict[str, Any]:
    pretrained = STARTS[start]
    name = NETWORKS[title] if pretrained else NETWORKS[title].partition(".")[0]
    folder = work / f"{name}.epochs{epochs}.seed{seed}"
    if not RunFolder(folder).result_json.is_file():
        changes = {"model": name, "pretrained": pretrained, "epochs": epochs, "warmup_epochs": 0.5, "seed": seed}
        recipe = read_recipe(find_recipe("digits"))
        train(TrainConfig(**recipe | changes, output=str(folder), resume=True))
    # from random weights, the control, one number is enough
    measures = SETTINGS["measures"] if pretrained else ("clean",)
    (record,) = evaluate(EvaluateConfig(models=(str(folder),), resume=True, **SETTINGS | {"measures": measures}))
    results = record.content["results"]
    return {
        "network": title,
        "start": start,
        "epochs": epochs,
        "seed": seed,
        "versions": record.content["produced_by"]["versions"],
        "hardware": record.content["produced_by"]["hardware"],
        "percent": measured_means(results, COLUMNS),
    }


def measured_means(results: list[dict[str, Any]], columns: dict[str, str]) -> dict[str, float]:
    """By column accuracy in percent, or how often answers stay, over the results whose ids begin as it says."""
    found = {column: [r for r in results if r["id"].startswith(prefix)] for column, prefix in columns.items()}
    return {
        column: statistics.mean(r.get("accuracy", r.get("consistency")) for r in group)
        for column, group in found.items()
        if group
    }


def load_record() -> dict[str, Any]:
    """The committed record."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def finetuning_table(record: dict[str, Any]) -> str:
    """The record as Markdown: means over the seeds, and standard deviations after ±."""
    rows = []
    for start in STARTS:
        for epochs in EPOCHS:
            for title in NETWORKS:
                runs = [r for r in record["runs"] if (r["network"], r["start"], r["epochs"]) == (title, start, epochs)]
                cells = [
                    mean_and_sd(r["percent"][column] for r in runs if column in r["percent"]) for column in COLUMNS
                ]
                rows.append([title, start, str(epochs), *cells])
    return table(["percent", "from", "epochs", *COLUMNS], rows, numbers=len(COLUMNS) + 1)


if __name__ == "__main__":
    main()
