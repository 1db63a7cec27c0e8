"""What each repair brings back on Fashion-MNIST: `python -m benchmarks.heal --data-dir DIR`.

Claim: a plain network whose strides are swapped for alias-free ones loses accuracy. Re-estimated BatchNorm statistics
give most of it back without labels or gradients, and refitted convolutions the rest, in the layout "paper" too.

One network (`resnet20_lowres`, 0.27 M parameters), one seed, all 10,000 test images. Writes
`benchmarks/results/heal.json` and the table made of it, `heal.md`.
"""

from __future__ import annotations

import json
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn
from torch.utils.data import DataLoader

from timm_asap import data, heal
from timm_asap.healing.batchnorm import reestimate_batchnorm
from timm_asap.healing.pair import load_pair
from timm_asap.training import TrainConfig, make_plan, train
from timm_asap.training.export import export_model
from timm_asap.training.run_folder import RunFolder

RESULTS = Path(__file__).parent / "results" / "heal.json"

#: Key in the record, and what the table calls it.
STAGES = {
    "plain": "the plain network",
    "plain_batchnorm": "the same, BatchNorm re-estimated",
    "swapped": "the plain network, strides swapped",
    "batchnorm": "... and BatchNorm re-estimated",
    "refit": "... or convolutions refitted",
    "refit_batchnorm": "... or both",
    "fine_tuned": "... and one epoch of training after both",
}


@dataclass(frozen=True)
class Options:
    """Train a plain network on Fashion-MNIST, swap its strides, and measure after each repair."""

    data_dir: str
    """Folder of the four Fashion-MNIST files."""
    work: str = "runs/heal"
    """Folder for the trained networks; a plain one that is there already, trained as asked, is used again."""
    epochs: int = 3
    """Epochs of the plain network."""
    images: int = 2048
    """Training images that the repairs see."""
    lr: float = 0.01
    """Peak learning rate of the fine-tuning."""


def main() -> None:
    """Train, measure and write."""
    options = tyro.cli(Options)
    folder = Path(options.work)
    plain_folder = _train_plain(options, folder / "plain")
    facts = json.loads((plain_folder / "run.json").read_text(encoding="utf-8"))
    dataset = data.load_dataset("fashion_mnist", options.data_dir)
    record = {
        "command": f"python -m benchmarks.heal --data-dir DIR --epochs {options.epochs} --images {options.images}",
        "model": facts["model"],
        "data": facts["data"],
        "versions": facts["versions"],
        "hardware": facts["hardware"],
        "epochs": options.epochs,
        "images": options.images,
        "seed": 0,
        "layouts": {
            layout: _measure(options, plain_folder, folder, dataset, layout) for layout in ("preserve", "paper")
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(table(record), encoding="utf-8")
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: accuracy in percent after each step, a column per layout."""
    layouts = record["layouts"]
    lines = [
        f"| Fashion-MNIST, `{record['model']['name']}`, test accuracy (%) | {' | '.join(layouts)} |",
        "|---" + "|---:" * len(layouts) + "|",
    ]
    for key, text in STAGES.items():
        lines.append(
            f"| {text} | " + " | ".join(f"{values['accuracy'][key]:.2f}" for values in layouts.values()) + " |"
        )
    lines += [
        "",
        f"{record['model']['parameters'] / 1e6:.2f} M parameters, trained for {record['epochs']} epochs, one seed; "
        f"repaired with {record['images']:,} training images without labels, BatchNorm in "
        f"{_seconds(layouts, 'batchnorm')}, both in {_seconds(layouts, 'refit_batchnorm')}, on {record['hardware']}.",
    ]
    return "\n".join(lines) + "\n"


def _seconds(layouts: dict[str, Any], key: str) -> str:
    """The time that a repair took, least to most."""
    least, *_, most = sorted(values["seconds"][key] for values in layouts.values())
    return f"{least:.0f} to {most:.0f} s"


def _train_plain(options: Options, folder: Path) -> Path:
    done = RunFolder(folder).metrics()
    if len(done) != options.epochs:
        train(
            TrainConfig(
                model="resnet20_lowres",
                dataset="fashion_mnist",
                data_dir=options.data_dir,
                epochs=options.epochs,
                crop_padding=2,
                flip=True,
                output=str(folder),
                overwrite=folder.is_dir(),
            )
        )
    return folder


def _measure(
    options: Options, plain_folder: Path, folder: Path, dataset: data.ImageDataset, layout: str
) -> dict[str, Any]:
    plain, swapped = load_pair(f"local-dir:{plain_folder}", {"asap_layout": layout})
    few = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[: options.images]
    images = data.build_loader(dataset.train.select(few), dataset, 128, training=False)
    test = data.build_loader(dataset.test, dataset, 250, training=False)
    # What training left of the statistics is an average over its last batches: what is gained by a better one alone?
    control = deepcopy(plain)
    reestimate_batchnorm(control, (batch for batch, _ in images))
    accuracy = {
        "plain": _accuracy(plain, test),
        "plain_batchnorm": _accuracy(control, test),
        "swapped": _accuracy(swapped, test),
    }
    seconds, reports = {}, {}
    for key, repairs in {
        "batchnorm": {"training_distribution": True},
        "refit": {"refit": True, "batchnorm": False},
        "refit_batchnorm": {"refit": True, "training_distribution": True},
    }.items():
        model = deepcopy(swapped)
        began = time.perf_counter()
        reports[key] = heal(model, images, plain=plain if "refit" in repairs else None, **repairs)
        seconds[key] = time.perf_counter() - began
        accuracy[key] = _accuracy(model, test)
        print(f"{layout}, {key}: {accuracy[key]:.2f} %\n{reports[key]}", flush=True)
    accuracy["fine_tuned"] = _fine_tune(options, model, folder / layout)
    return {
        "accuracy": accuracy,
        "seconds": seconds,
        "sites": [asdict(site) for site in reports["refit_batchnorm"].sites],
    }


def _fine_tune(options: Options, model: nn.Module, folder: Path) -> float:
    """Test accuracy, in percent, after one epoch of training from the healed network."""
    healed = folder / "healed"
    given = {"dataset": "fashion_mnist", "data_dir": options.data_dir, "crop_padding": 2, "flip": True}
    export_model(make_plan(TrainConfig(model="resnet20_lowres", **given)), model, healed)
    config = TrainConfig(
        model=f"local-dir:{healed}",
        pretrained=True,
        epochs=1,
        warmup_epochs=0,
        lr=options.lr,
        output=str(folder / "fine_tuned"),
        overwrite=(folder / "fine_tuned").is_dir(),
        **given,
    )
    return train(config).test_accuracy


@torch.no_grad()
def _accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Percent."""
    correct = sum((model.eval()(images).argmax(dim=1) == labels).sum().item() for images, labels in loader)
    return 100 * correct / len(loader.dataset)


if __name__ == "__main__":
    main()
