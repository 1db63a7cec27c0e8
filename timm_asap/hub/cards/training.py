"""How the weights were trained, as sentences of a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from timm_asap._types import present
from timm_asap.hub.cards.records import RunRecords
from timm_asap.training.config import default_of
from timm_asap.training.options import AdversarialOptions, AugmentationOptions, ModelOptions, OptimizationOptions

__all__ = ["adaptation_lines", "healing_lines", "training_lines"]

_CONCERNS = (OptimizationOptions, AugmentationOptions, AdversarialOptions, ModelOptions)
# Said in sentences of their own, or in the table of the model.
_SAID = frozenset({"epochs", "batch_size", "opt", "lr", "sched", "weight_decay", "model", "pretrained"})
# What the other kind of images makes no use of.
_OF_SMALL_IMAGES = frozenset({"crop_padding"})
_OF_LARGE_IMAGES = frozenset(
    {"crop_scale", "color_jitter", "auto_augment", "image_size", "train_image_size", "crop_pct"}
)


def training_lines(records: RunRecords) -> list[str]:
    """What was trained, on what, for how long; none for a model that was only healed."""
    if records.config is None:
        return []
    config = records.config
    facts, result = present(records.facts, "run.json"), present(records.result, "result.json")
    processes = f" in {facts['processes']} processes" if facts["processes"] > 1 else ""
    lines = [
        f"Data: {_data(records)}",
        f"{_epochs(records)} of batch size {config['batch_size']:,}; {config['opt']}, peak learning rate "
        f"{config['lr']:g}, schedule {config['sched']}, weight decay {config['weight_decay']:g}; "
        f"{'fp32' if facts['precision'] == 'no' else facts['precision']}; seed {config['seed']}.",
    ]
    if changed := _changed_settings(config, records.has_small_images):
        lines.append(f"Further settings: {', '.join(f'`{name}` {value}' for name, value in changed.items())}.")
    if records.origin is None:
        lines.append("Started from random weights.")
    else:
        lines.append(f"Started from the weights of {records.origin}.")
    lines.append(
        f"Weights of epoch {result['epoch']}, chosen by: {result['chosen_by']}. The test images chose nothing."
    )
    lines.append(
        f"{_duration(records)} on {facts['hardware']}{processes}; {records.epochs[-1]['images_per_s']:,.0f} images/s "
        "in the last epoch."
    )
    lines.append(f"Versions: {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}.")
    return lines


def healing_lines(records: RunRecords) -> list[str]:
    """How a network with swapped strides was repaired; none where it was not."""
    healing = records.healing
    if healing is None:
        return []
    report = healing["report"]
    was_plain = "plain" in healing["accuracy"]
    swapped = "had its strides swapped for alias-free ones, its weights kept" if was_plain else "was alias-free already"
    lines = [
        f"{records.origin} {swapped}.",
        f"Then {report['images']:,} training images of {records.data_name}, without labels, changed the statistics of "
        f"{len(report['batchnorm'])} BatchNorm layers.",
    ]
    if "fidelity" in healing and healing["fidelity"]["after"]["kl"] is not None:
        before, after = (healing["fidelity"][name] for name in ("before", "after"))
        lines.append(
            f"Fidelity to the plain network on {after['images']:,} images held out of this. Before: "
            f"{_fidelity(before)}. After: {_fidelity(after)}. A repair that did not help was not kept."
        )
    if report["sites"]:
        refitted = sum(site["refitted"] for site in report["sites"])
        lines.append(
            f"{refitted} of {len(report['sites'])} converted convolutions were refitted to the plain network's outputs."
        )
    if report["note"]:
        lines.append(report["note"])
    return lines


def adaptation_lines(records: RunRecords) -> list[str]:
    """How a twin learned the plain network's predictions; none where it did not."""
    adaptation = records.adaptation
    if adaptation is None:
        return []
    facts = present(records.facts, "run.json")
    after, before = adaptation["after"], adaptation["before"]
    lines = [
        f"Started from the weights of {records.origin}, with alias-free strides. No label was used: the network "
        f"learned the predictions of {adaptation['teacher']} on the same random crops.",
        f"Data: {records.data['source']}; {records.data['train_images']:,} to adapt on, {after['images']:,} held "
        "out to measure fidelity on.",
        f"{adaptation['steps']:,} optimizer steps; {_duration(records)} on {facts['hardware']}.",
        f"Fidelity to the plain network on the held-out images. Before: {_fidelity(before)}. After: "
        f"{_fidelity(after)}. This is agreement with another network: no label was looked at, and it does not say "
        "how often either is right.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}.",
    ]
    return lines


def _fidelity(found: Mapping[str, Any]) -> str:
    low, high = found["agreement_interval"]
    text = f"the same top class on {found['agreement']:.1f} % (95 % interval {low:.1f} to {high:.1f})"
    if found["confident_agreement"] is not None:
        text += (
            f", on {found['confident_agreement']:.1f} % of the {found['confident_images']:,} where the plain network "
            "gives its top class a probability above 0.3"
        )
    return f"{text}; KL divergence {found['kl']:.3f} nats"


def _data(records: RunRecords) -> str:
    data, config = records.data, present(records.config, "config.yaml")
    name, images = records.data_name, data["train_images"]
    if images is not None:
        parts = [f"{images:,} training images of {name}"]
    elif config.get("streaming"):
        parts = [f"training images of {name} read as a stream, {config['steps_per_epoch']:,} steps counted as an epoch"]
    else:
        parts = [f"training images of {name}"]
    if data.get("val_images"):
        parts.append(f"{data['val_images']:,} held out to choose the epoch ({data['val_name']})")
    parts.append(f"{present(records.result, 'result.json')['test_images']:,} test images ({data['test_name']})")
    return "; ".join(parts) + "."


def _epochs(records: RunRecords) -> str:
    done, planned = len(records.epochs), present(records.config, "config.yaml")["epochs"]
    text = f"{done:,} {'epoch' if done == 1 else 'epochs'}"
    return text if done == planned else f"{text}, stopped early out of {planned:,},"


def _duration(records: RunRecords) -> str:
    seconds = sum(epoch["seconds"] for epoch in records.epochs)
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _changed_settings(config: Mapping[str, Any], small: bool) -> dict[str, Any]:
    """What differs from the defaults of train.py and had a part in the run, whatever options it has."""
    known = {field.name: default_of(field) for concern in _CONCERNS for field in fields(concern)}
    other_size = _OF_LARGE_IMAGES if small else _OF_SMALL_IMAGES
    return {
        name: value
        for name, value in config.items()
        if name in known and name not in _SAID | other_size and not name.startswith("asap_") and value != known[name]
    }
