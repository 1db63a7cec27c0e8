"""What `timm-asap heal` does: swaps a trained network's strides, repairs it with unlabeled images, and writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from timm_asap import data, machine
from timm_asap._io import as_json, cut_path, disk_errors, is_leftover, remove, replace_file, sync_file
from timm_asap._lock import LOCK_FILES, folder_lock, refuse_if_locked
from timm_asap._types import pretrained_cfg_of, undeclared
from timm_asap.data.config import PixelConfig
from timm_asap.data.labels import match_labels, renumbered
from timm_asap.data.splits import ImageSplit, TensorSplit, counted
from timm_asap.errors import UserError
from timm_asap.evaluation.measurements import resolve_device
from timm_asap.evaluation.statistics import below_chance
from timm_asap.healing import batchnorm_layers, heal
from timm_asap.healing.pair import load_pair
from timm_asap.healing.refit import converted_convolutions
from timm_asap.hub.card import write_card
from timm_asap.machine import check_memory, image_memory
from timm_asap.provenance import hardware, package_versions
from timm_asap.screen import ProgressDisplay, print_text
from timm_asap.training.config import TrainConfig
from timm_asap.training.export import export_model
from timm_asap.training.plan import Plan
from timm_asap.training.run_folder import MODEL_FILES, RunFolder
from timm_asap.zoo import AsapOptions

if TYPE_CHECKING:
    from timm_asap.commands.heal import HealOptions

__all__ = ["run"]

_WHERE_THE_DATA_ARE = ("data_dir", "image_key", "label_key", "train_split", "test_split")
_OF_OLDER_WEIGHTS = (
    *("evaluation.json", "evaluation.safetensors", "evaluation.partial.safetensors", "comparison.json"),
    *("plots", "publish"),
)
_OWN_FILES = (*MODEL_FILES, "heal.json", "README.md", *_OF_OLDER_WEIGHTS)


def run(options: HealOptions) -> None:
    """Heal, write, and print what it brought.

    Args:
        options: Of the command line.

    Raises:
        UserError: If the model, the data or the folder do not fit.
    """
    folder, device = Path(options.output), resolve_device(options.device)
    _check_output(folder, options.overwrite)
    refuse_if_locked(folder)
    plain, model = load_pair(options.model, options.asap_kwargs)
    if not (options.refit or options.refit_all) and not batchnorm_layers(model):
        raise UserError(f"{options.model} has no BatchNorm, and so no statistics to move: give --refit")
    dataset = options.load_data()
    for line in (dataset.source, *dataset.notes):
        print_text(line)
    dataset = _in_the_models_order(options, dataset, model)
    plan = _plan(options, dataset, model)
    if device.type == "cpu":
        needed = image_memory(plan.pixels.size, min(options.batch_size, options.limit))
        check_memory(needed, f"{options.model} with --batch-size {options.batch_size}")
    with folder_lock(folder, "timm-asap heal"):
        _check_output(folder, options.overwrite)
        _heal_and_write(options, plan, plain, device, folder)
        card = write_card(folder)
    print(f"wrote {card}; it says how robustness is measured")
    print(RunFolder(folder).load_line)


def _heal_and_write(
    options: HealOptions, plan: Plan, plain: nn.Module | None, device: torch.device, folder: Path
) -> None:
    model, dataset = plan.model, plan.dataset
    architecture = pretrained_cfg_of(model)["architecture"]
    report_on = {"model": options.model, "twin": architecture, **AsapOptions(**_asap_options(model)).__dict__}
    print_text(", ".join(f"{name} {value}" for name, value in report_on.items()))

    test_split, train_split = counted(dataset.test), counted(dataset.train)
    measured = data.leave_out_unreadable(test_split) if options.skip_unreadable else test_split
    test = _loader(plan, measured)
    model.to(device)
    few = torch.randperm(len(train_split), generator=torch.Generator().manual_seed(options.seed))[: options.limit]
    chosen = train_split.select(few)
    images = _loader(plan, data.leave_out_unreadable(chosen) if options.skip_unreadable else chosen)
    # a pass to hold images out, one for each layer that is refitted and the order of them, and one for the statistics
    passes = 3 + (len(converted_convolutions(model)) if options.refit else 0)
    tests = 2 if plain is None else 3
    accuracy = {}
    total = passes * len(images) + tests * len(test)
    with machine.thread_count(), ProgressDisplay(total, name="timm-asap heal") as display:
        if device.type == "cpu" and not machine.set_by_user() and machine.cores() > 1:
            work = machine.forward_pass(model, plan.pixels.size)
            display.say(str(machine.choose_threads(work, options.batch_size)))
        if plain is not None:
            accuracy["plain"] = _accuracy(plain.to(device), _Counted(test, display, "testing the original"), device)
        accuracy["before"] = _accuracy(model, _Counted(test, display, "testing before healing"), device)
        try:
            report = heal(
                model,
                _Counted(images, display, "healing"),
                refit="all" if options.refit_all else options.refit,
                training_distribution=options.training_distribution,
                plain=None if plain is None else plain.to(device),
                ridge=options.ridge,
                seed=options.seed,
            )
        except ValueError as error:
            raise UserError(f"{options.model} cannot be healed: {error}") from error
        used = hardware(device)
        accuracy["healed"] = _accuracy(model, _Counted(test, display, "testing"), device)
    print(report)
    print_text(
        f"accuracy on {dataset.test_name} ({len(measured):,} images): "
        + ", ".join(f"{name} {value:.2f} %" for name, value in accuracy.items())
    )
    best = max(accuracy["healed"], accuracy.get("plain", 0.0))
    if doubt := below_chance(best, len(measured), dataset.num_classes):
        print(doubt, file=sys.stderr)

    about = {key: getattr(dataset, key) for key in ("source", "frame", "test_name")}
    record = {**report_on, "dataset": dataset.name, **about, "small": isinstance(dataset.test, TensorSplit)}
    record |= {name: cut_path(value) for name in _WHERE_THE_DATA_ARE if (value := getattr(options, name)) is not None}
    record |= {"versions": package_versions(), "hardware": used}
    if report.before is not None and report.after is not None:
        record["fidelity"] = {"before": asdict(report.before), "after": asdict(report.after)}
    record |= {"test_images": len(measured), "accuracy": accuracy, "report": asdict(report)}
    # the record is on the disk before the weights are replaced, and in its place after them
    with replace_file(folder / "heal.json") as aside:
        aside.write_text(as_json(record), encoding="utf-8")
        sync_file(aside)
        export_model(plan, model, folder)
    with disk_errors(f"{folder} cannot be cleared of what the model before it was measured to do"):
        for name in _OF_OLDER_WEIGHTS:
            remove(folder / name)


def _in_the_models_order(options: HealOptions, dataset: data.ImageDataset, model: nn.Module) -> data.ImageDataset:
    """The data set with its classes numbered, and called, as the model's."""
    num_classes: int = undeclared(model).num_classes
    if num_classes != dataset.num_classes:
        raise UserError(
            f"{options.model} has {num_classes} classes, and {options.dataset} has "
            f"{dataset.num_classes}: heal with the data set that the model was trained on"
        )
    own = pretrained_cfg_of(model).get("label_names")
    own = tuple(own) if own and len(own) == num_classes else None
    try:
        classes = match_labels(dataset.label_names, own, num_classes, dataset.class_order)
    except UserError as error:
        raise UserError(f"{options.model} does not fit data set {options.dataset!r}: {error}") from error
    dataset = renumbered(dataset, classes)
    return dataset if own is None else replace(dataset, label_names=own)


def _asap_options(model: nn.Module) -> dict[str, Any]:
    arguments: dict[str, Any] = undeclared(model)._model_args
    return {name: value for name, value in arguments.items() if name in AsapOptions.__dataclass_fields__}


def _check_output(folder: Path, overwrite: bool) -> None:
    """See that a model may be written to a folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file: expected a folder")
    with disk_errors(f"--output {folder} cannot be read"):
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = {name for name in there if name not in LOCK_FILES and not is_leftover(name)}
    if not found <= set(_OWN_FILES):
        raise UserError(f"--output {folder} holds other files: choose another folder")
    if found and not overwrite:
        raise UserError(f"{folder} already holds a healed model: --overwrite replaces it")


def _plan(options: HealOptions, dataset: data.ImageDataset, model: nn.Module) -> Plan:
    """The model and how its images are prepared, as its own configuration says."""
    pixels = PixelConfig.of_model(model)
    small = isinstance(dataset.train, TensorSplit)
    return Plan(
        config=TrainConfig(model=options.model, dataset=options.dataset, batch_size=options.batch_size),
        dataset=dataset,
        model=model,
        pixels=replace(pixels, crop_pct=1.0) if small else pixels,
    )


def _loader(plan: Plan, split: TensorSplit | ImageSplit) -> DataLoader:
    return data.build_loader(split, plan.dataset, plan.config.batch_size, training=False, pixels=plan.pixels)


class _Counted:
    """A loader that shows how far it is read, as often as it is read."""

    def __init__(self, loader: DataLoader, display: ProgressDisplay, text: str) -> None:
        self.dataset: Any = loader.dataset
        self._loader, self._display, self._text = loader, display, text

    def __iter__(self) -> Iterator[Any]:
        self._display.begin(self._text)
        for batch in self._loader:
            yield batch
            self._display.advance()


@torch.no_grad()
def _accuracy(model: nn.Module, loader: _Counted, device: torch.device) -> float:
    """Percent."""
    model.eval()
    correct = sum((model(images.to(device)).argmax(dim=1).cpu() == labels).sum().item() for images, labels in loader)
    return 100 * correct / len(loader.dataset)
