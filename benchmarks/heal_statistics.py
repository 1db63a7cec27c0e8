"""Moved against replaced BatchNorm statistics on Fashion-MNIST: `python -m benchmarks.heal_statistics --data-dir DIR`.

Question: where the images are those that the network was trained on, do statistics moved with the plain network's bring
back as much as statistics replaced by those of the images? And where they are not, what does each do?

The shipped plain network (`resnet20_lowres.fashion_mnist`), both layouts, accuracy on the first test images. Foreign
images are the same ones inverted: the background is white and the clothes are dark. Writes
`benchmarks/results/heal_statistics.json` and `.md`.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.common import RESULTS, environment
from benchmarks.markdown import table
from timm_asap import data, heal
from timm_asap._io import write_text
from timm_asap.healing.batchnorm import move_batchnorm, reestimate_batchnorm
from timm_asap.healing.pair import load_pair

NETWORK = "resnet20_lowres.fashion_mnist"

#: Key in the record, and what the table calls it.
STEPS = {
    "plain": "the plain network",
    "swapped": "its twin, untouched",
    "moved": "statistics moved",
    "replaced": "statistics replaced",
    "heal": "`heal`",
    "heal_training": "`heal(training_distribution=True)`",
    "heal_refit": "`heal(refit=True)`",
    "heal_all": '`heal(refit="all")`',
}


@dataclass(frozen=True)
class Options:
    """Compare ways to repair statistics on Fashion-MNIST."""

    data_dir: str
    """Folder of the four Fashion-MNIST files."""
    images: int = 512
    """Images that the repairs see."""
    test_images: int = 2000
    """Test images that accuracy is measured on."""


def main() -> None:
    """Measure, write and print."""
    options = tyro.cli(Options)
    dataset = data.load_dataset("fashion_mnist", options.data_dir)
    few = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[: options.images]
    own = _images(dataset, dataset.train.select(few))
    inverted = data.TensorSplit(255 - dataset.train.images[few], dataset.train.labels[few])
    foreign = _images(dataset, inverted)
    test = data.build_loader(dataset.test.select(torch.arange(options.test_images)), dataset, 250, training=False)
    record = {
        "network": NETWORK,
        "images": options.images,
        "test_images": options.test_images,
        "environment": environment(torch.device("cpu")),
        "columns": {
            f"{layout}, {kind}": _measure(layout, images, test)
            for layout in ("preserve", "paper")
            for kind, images in (("training images", own), ("inverted images", foreign))
        },
    }
    path = RESULTS / "heal_statistics.json"
    write_text(path, json.dumps(record, indent=1) + "\n")
    write_text(path.with_suffix(".md"), statistics_table(record))
    print(statistics_table(record))


def _images(dataset: data.ImageDataset, split: data.Split) -> torch.Tensor:
    return torch.cat([images for images, _ in data.build_loader(split, dataset, 128, training=False)])


def _measure(layout: str, images: torch.Tensor, test: DataLoader) -> dict[str, float]:
    plain, swapped = load_pair(NETWORK, {"asap_layout": layout})
    accuracy = {"plain": _accuracy(plain, test), "swapped": _accuracy(swapped, test)}
    repairs: dict[str, Any] = {
        "moved": lambda model: move_batchnorm(model, plain, images.split(128)),
        "replaced": lambda model: reestimate_batchnorm(model, images.split(128)),
        "heal": lambda model: heal(model, images),
        "heal_training": lambda model: heal(model, images, training_distribution=True),
        "heal_refit": lambda model: heal(model, images, refit=True),
        "heal_all": lambda model: heal(model, images, refit="all"),
    }
    for name, repair in repairs.items():
        model = deepcopy(swapped)
        repair(model)
        accuracy[name] = _accuracy(model, test)
        print(f"{layout}, {name}: {accuracy[name]:.2f} %", flush=True)
    return accuracy


@torch.no_grad()
def _accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Percent."""
    model.eval()
    correct = sum((model(images).argmax(dim=1) == labels).sum().item() for images, labels in loader)
    return 100 * correct / len(loader.dataset)


def statistics_table(record: dict[str, Any]) -> str:
    """The record as Markdown: accuracy in percent."""
    columns = record["columns"]
    rows = [(text, *(f"{values[key]:.2f}" for values in columns.values())) for key, text in STEPS.items()]
    note = (
        f"\n`{record['network']}`, accuracy (%) on the first {record['test_images']:,} test images of Fashion-MNIST; "
        f"repaired with {record['images']:,} images without labels. One network.\n"
    )
    return table(("", *columns), rows) + "\n" + note


if __name__ == "__main__":
    main()
