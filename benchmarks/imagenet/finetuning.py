"""A real ImageNet network as the start of another task: `python -m benchmarks.imagenet.finetuning --help`.

Question: is an adapted twin as good a start as the plain network, and is adapting worth its time before fine-tuning?
EfficientNet-Lite0, plain, as an untouched twin and as the adapted one, is fine-tuned to scikit-learn's digits, enlarged
to 96 pixels, and measured on held-out ones. Writes `benchmarks/results/imagenet_finetuning.json`; runs that are there
already are used again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import tyro
from PIL import Image
from timm.models import save_for_hf

from benchmarks import finetuning
from benchmarks.common import RESULTS
from benchmarks.imagenet.__main__ import twin_of
from benchmarks.markdown import mean_and_sd, table
from benchmarks.study.seeds import over_seeds
from timm_asap._io import write_text
from timm_asap.data import load_dataset
from timm_asap.evaluation import EvaluateConfig, evaluate
from timm_asap.training import TrainConfig, train
from timm_asap.training.run_folder import RunFolder

RECORD = RESULTS / "imagenet_finetuning.json"

STARTS = ("plain", "twin, untouched", "twin, adapted")
SEEDS = (0, 1, 2)
RECIPE: dict[str, Any] = {
    "dataset": "imagefolder",
    "image_size": 96,
    "crop_pct": 1.0,
    "pretrained": True,
    "epochs": 2,
    "batch_size": 32,
    "opt": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.02,
    "sched": "cosine",
    "warmup_epochs": 0.5,
    "crop_scale": 0.7,
    "flip": False,
    "channels_last": True,
}
SETTINGS: dict[str, Any] = {
    "dataset": "imagefolder",
    "measures": ("clean", "corruptions", "attacks", "shift"),
    "severities": (1, 3, 5),
    "attacks": ("fgsm",),
    "eps": ("1/255", "4/255"),
    "limit": 180,
    "limit_attacks": 180,
    "channels_last": True,
    "plots": False,
}
COLUMNS = {name: prefix for name, prefix in finetuning.COLUMNS.items() if name != "PGD-20"} | {
    "crop shift": "shift/crop/"
}


@dataclass(frozen=True)
class Options:
    """Fine-tune an ImageNet network and its twins to the digits, and measure."""

    plain: Path
    """The plain network in timm's layout, as `python -m benchmarks.imagenet --prepare` writes it."""
    adapted: str
    """Run folder of `timm-asap adapt`, or the name of shipped weights."""
    work: Path = Path("runs/imagenet_finetuning")
    """Folder of the runs."""


def main() -> None:
    """Train, measure and write."""
    options = tyro.cli(Options)
    untouched = options.work / "untouched"
    if not untouched.is_dir():
        plain = timm.create_model(f"local-dir:{options.plain}", pretrained=True)
        save_for_hf(twin_of(plain, plain.pretrained_cfg["architecture"]), str(untouched), safe_serialization=True)
    adapted = f"local-dir:{options.adapted}" if Path(options.adapted).is_dir() else options.adapted
    images = _digits(options.work / "digits")
    names = dict(zip(STARTS, (f"local-dir:{options.plain}", f"local-dir:{untouched}", adapted), strict=True))
    runs = []
    for seed in SEEDS:
        runs += [_run(options.work, images, start, names[start], seed) for start in STARTS]
        write_text(RECORD, json.dumps({"recipe": RECIPE, "settings": SETTINGS, "runs": runs}, indent=1) + "\n")
    print(finetuning_table(load_record()))


def _digits(folder: Path) -> str:
    """The digits as class folders of 96-pixel images, divided as the data set `digits` is."""
    digits = load_dataset("digits")
    for split, part in (("train", digits.train), ("test", digits.test)):
        for number, (image, label) in enumerate(zip(part.images, part.labels.tolist(), strict=True)):
            path = folder / split / digits.label_names[label] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            scan = Image.fromarray(image[0].numpy()).convert("RGB")
            scan.resize((96, 96), Image.Resampling.BICUBIC).save(path)
    return str(folder)


def _run(work: Path, images: str, start: str, name: str, seed: int) -> dict[str, Any]:
    folder = work / f"{start.replace(', ', '_')}.seed{seed}"
    if not RunFolder(folder).result_json.is_file():
        train(TrainConfig(**RECIPE, model=name, data_dir=images, seed=seed, output=str(folder), resume=True))
    (record,) = evaluate(EvaluateConfig(models=(str(folder),), data_dir=images, resume=True, **SETTINGS))
    by = record.content["produced_by"]
    percent = finetuning.measured_means(record.content["results"], COLUMNS)
    return {"start": start, "seed": seed, "versions": by["versions"], "hardware": by["hardware"], "percent": percent}


def load_record() -> dict[str, Any]:
    """The committed record."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def finetuning_table(record: dict[str, Any]) -> str:
    """Means over the seeds and standard deviations after ±, and the twins' differences from the plain network."""
    by_start = {s: sorted((r for r in record["runs"] if r["start"] == s), key=lambda r: r["seed"]) for s in STARTS}
    rows = [
        [start, str(len(runs)), *(mean_and_sd(run["percent"][column] for run in runs) for column in COLUMNS)]
        for start, runs in by_start.items()
    ]
    for start in STARTS[1:]:
        cells = []
        for column in COLUMNS:
            pairs = zip(by_start[start], by_start["plain"], strict=False)
            d = over_seeds([mine["percent"][column] - plain["percent"][column] for mine, plain in pairs])
            cells.append(f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]")
        rows.append([f"{start}, against plain", str(len(by_start[start])), *cells])
    return table(["percent", "seeds", *COLUMNS], rows)


if __name__ == "__main__":
    main()
