"""Writes the cards of the weights in the package: `python -m benchmarks.study.cards --data-dir fashion-mnist`.

A card is made from records alone: those of the study, and the weights that `python -m benchmarks.study.ship` put into
the package. They are laid out as the run folder that they came from, and the card is written as that of any run. Cards
and figures go to `model_cards`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.study.plan import FASHION
from benchmarks.study.results import StudyRecord
from benchmarks.study.ship import shipped_records
from timm_asap._io import write_text
from timm_asap.data.idx import load_fashion_mnist
from timm_asap.evaluation.config import EvaluateConfig
from timm_asap.evaluation.models import choose_images, open_model
from timm_asap.evaluation.per_image import write_per_image
from timm_asap.evaluation.plots import draw_summary, save_png
from timm_asap.evaluation.record import PER_IMAGE, RECORD, clean_of_attacked, compose, describe_model, summarize
from timm_asap.hub.card import write_card
from timm_asap.hub.cards.user_sections import MARK, wrap
from timm_asap.training.command_line import command
from timm_asap.training.config import TrainConfig, to_yaml
from timm_asap.zoo.shipped import WEIGHTS, model_cards

CARDS = model_cards()

_SHOWN = ("clean", "robustness")
"""Parts of the study that a card shows."""

_OF_THE_STUDY = """## Other seeds

These are the weights of the best of {seeds} seeds by held-out accuracy. All seeds of all variants, with what speaks
against the twin, are on the page docs/evidence.md of timm_asap."""


@dataclass(frozen=True)
class Options:
    """Write the cards of the weights in the package."""

    data_dir: str
    """Folder of the four Fashion-MNIST files, which say which images were measured."""


def main() -> None:
    """Write the cards from what the study left."""
    data_dir = Path(tyro.cli(Options).data_dir)
    with tempfile.TemporaryDirectory() as work:
        plain = None
        for name, record in shipped_records().items():
            folder = Path(work) / record.content["run"]
            content = lay_out(folder, name, record, data_dir)
            # elsewhere than in the run folder, whose plots are not shipped
            figure = save_png(draw_summary([{**content, "model": {"name": name}}]), CARDS / f"{name}.png")
            card = CARDS / f"{name}.md"
            # what is written by hand: a card takes it over from the one before
            note = wrap("notes", _OF_THE_STUDY.format(seeds=len(FASHION.seeds)))
            write_text(card, f"---\nlicense: mit\n---\n{MARK} -->\n{note}\n")
            print(write_card(folder, against=plain, shipped_as=name, output=card, figure=figure.name))
            plain = plain or folder


def lay_out(folder: Path, name: str, record: StudyRecord, data_dir: Path) -> dict[str, Any]:
    """Write the run folder that a record of the study was made of; its evaluation.json is returned.

    Args:
        folder: New.
        name: Of the weights in the package.
        record: Of the study.
        data_dir: Folder of the four Fashion-MNIST files.
    """
    folder.mkdir(parents=True)
    for file, suffix in (("model.safetensors", "safetensors"), ("config.json", "json")):
        shutil.copyfile(WEIGHTS / f"{name}.{suffix}", folder / file)
    study, data = record.content, load_fashion_mnist(data_dir)
    config = TrainConfig(**study["settings"], data_dir=data_dir.name, output=study["run"])
    opened = open_model(str(folder))
    by = study["clean"]
    held_out = round(config.val_share * len(data.train))
    facts = {
        "command": command(config),
        "versions": {package: version for package, version in by["versions"].items() if package != "pyautoattack"},
        "hardware": by["hardware"],
        "processes": 1,
        "precision": config.mixed_precision,
        "model": {"name": config.model, "parameters": opened.parameters, "input_size": opened.pixels.input_size},
        "data": {
            "name": "fashion_mnist",
            "hub_id": "zalando-datasets/fashion_mnist",
            "source": data.source,
            "frame": data.frame,
            "small": True,
            "classes": data.num_classes,
            "train_images": len(data.train) - held_out,
            "val_images": held_out,
            "val_name": study["training"]["chosen_by"].partition(" on ")[2].rpartition(" (")[0],
            "test_images": len(data.test),
            "test_name": data.test_name,
        },
    }
    write_text(folder / "config.yaml", to_yaml(config))
    _write_json(folder / "run.json", facts)
    _write_json(folder / "result.json", study["training"])
    write_text(folder / "metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in study["epochs"]))

    results = [result for part in _SHOWN for result in study[part]["results"]]
    right = {
        key.partition("/")[2]: torch.from_numpy(values)
        for key, values in record.right.items()
        if key.startswith(tuple(f"{part}/" for part in _SHOWN))
    }
    ids = _sample_ids(data.test.labels)
    content = compose(
        model=describe_model(opened) | {"name": study["run"]},
        data={
            **{key: facts["data"][key] for key in ("name", "hub_id", "source", "classes")},
            "split": data.test_name,
            "images": len(data.test),
            "labels_sha256": "",
            "label_names": list(data.label_names),
        },
        produced={
            "command": "; ".join(_evaluation(study["run"], part, data_dir.name) for part in _SHOWN),
            "versions": by["versions"],
            "commit": None,
            "hardware": by["hardware"],
            "processes": 1,
            "batch_size": EvaluateConfig.batch_size,
        },
        results=results,
        summary=summarize(results, [], None) | {"attacked_clean": clean_of_attacked(right, ids)},
    )
    _write_json(folder / RECORD, content)
    write_per_image(folder / PER_IMAGE, right, ids, opened.weights_sha256, {})
    return content


def _sample_ids(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Which images were measured, as `timm-asap evaluate` draws them."""
    limits = FASHION.parts["robustness"]
    few = choose_images(labels, limits["limit"], FASHION.shared["seed"])
    attacked = choose_images(labels, min(limits["limit"], limits["limit_attacks"]), FASHION.shared["seed"])
    return {"clean": torch.arange(len(labels)), "corruption": few, "shift": few, "attack": attacked}


def _evaluation(run: str, part: str, data_dir: str) -> str:
    config = EvaluateConfig(models=(run,), data_dir=data_dir, output=part, **(FASHION.shared | FASHION.parts[part]))
    return " ".join(["timm-asap", "evaluate", *config.flags()])


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
