"""`timm-asap heal MODEL`: swaps a trained network's strides and repairs it with unlabelled images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn
from torch.utils.data import DataLoader

import timm_asap  # noqa: F401  registers the twins
from timm_asap import data
from timm_asap._io import as_json, disk_errors, is_leftover, remove, replace_file, sync_file
from timm_asap._lock import LOCK_FILES, folder_lock, refuse_if_locked
from timm_asap.command_line import parse
from timm_asap.data.labels import match_labels, renumbered
from timm_asap.data.options import DataSource
from timm_asap.data.splits import TensorSplit
from timm_asap.errors import UserError, check_seed
from timm_asap.evaluation.intervals import below_chance
from timm_asap.evaluation.processes import resolve_device
from timm_asap.healing import batchnorm_layers, heal
from timm_asap.healing.pair import load_pair
from timm_asap.training.config import TrainConfig
from timm_asap.training.export import export_model
from timm_asap.training.facts import hardware, package_versions
from timm_asap.training.plan import Plan
from timm_asap.training.run_folder import MODEL_FILES, RunFolder
from timm_asap.zoo import AsapOptions
from timm_asap.zoo.memory import check_memory, image_memory

_STEM = {"auto": "auto", "true": True, "false": False}
_OF_OLDER_WEIGHTS = (
    *("evaluation.json", "evaluation.safetensors", "evaluation.partial.safetensors", "comparison.json"),
    *("plots", "publish"),
)
_OWN_FILES = (*MODEL_FILES, "heal.json", "README.md", *_OF_OLDER_WEIGHTS)


@dataclass(frozen=True)
class HealOptions(DataSource):
    """Swap the strides of a trained network, and repair it with the training images of a data set, without labels."""

    model: tyro.conf.Positional[str]
    """A run folder, a pretrained model of timm such as resnet50.a1_in1k, its twin, or hf-hub:NAME."""
    dataset: str = field(kw_only=True)
    """A data set with the classes of the model, as train.py names it; its labels only measure accuracy."""
    output: str = field(kw_only=True)
    """Folder to write: model.safetensors and config.json, as timm loads them, and heal.json."""
    training_distribution: bool = False
    """The data set is what the model was trained on: replace the BatchNorm statistics by those of its images, instead
    of moving them by what the swap changes."""
    refit: bool = False
    """Also refit each converted convolution to the plain network's outputs."""
    refit_all: bool = False
    """Refit every convolution from the first converted one on: more is repaired, with 256
    images at most."""
    ridge: float | None = None
    """Penalty of a change of weights in the refit, as a share of the mean squared input; by default the best of
    five, for each convolution."""
    limit: int = 2048
    """Training images to use, drawn at random."""
    batch_size: int = 128
    """Images that run at a time."""
    layout: str | None = None
    """preserve (default) or paper."""
    window: str | None = None
    """asap (default), hamming or flc."""
    boundary: str | None = None
    """circular (default), reflect or zero."""
    stem: Annotated[str | None, tyro.conf.arg(metavar="auto|true|false")] = None
    """Whether the first layer of the image is converted; auto (default): where its stride is 2 or 3."""
    device: str | None = None
    """Device to run on; by default cuda where there is one, else cpu."""
    seed: int = 0
    """Seeds which images are used, and which of their positions."""
    overwrite: bool = False
    """Replace the model in the output folder."""

    def __post_init__(self) -> None:
        for name, least in (("limit", 3), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise UserError(
                    f"--{name.replace('_', '-')}: expected {least} or more, got {getattr(self, name)}; statistics need "
                    "two images, and one more is held out to measure on"
                )
        check_seed(self.seed)
        if self.ridge is not None and not self.ridge > 0:
            raise UserError(f"--ridge: expected a number above 0, got {self.ridge:g}")
        if self.stem is not None and self.stem not in _STEM:
            raise UserError(f"--stem: expected auto, true or false, got {self.stem!r}")
        try:
            AsapOptions(**self.asap_kwargs)
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def asap_kwargs(self) -> dict[str, Any]:
        """The `asap_*` keywords that were given."""
        given = {f"asap_{name}": getattr(self, name) for name in ("layout", "window", "boundary")}
        given["asap_stem"] = None if self.stem is None else _STEM[self.stem]
        return {name: value for name, value in given.items() if value is not None}


def main(argv: Sequence[str]) -> None:
    """Heal, write, and print what it brought."""
    options = parse(HealOptions, argv, prog="timm-asap heal")
    folder, device = Path(options.output), resolve_device(options.device)
    _check_output(folder, options.overwrite)
    refuse_if_locked(folder)
    plain, model = load_pair(options.model, options.asap_kwargs)
    if not (options.refit or options.refit_all) and not batchnorm_layers(model):
        raise UserError(f"{options.model} has no BatchNorm, and so no statistics to move: give --refit")
    dataset = options.load_data()
    for line in (dataset.source, *dataset.notes):
        print(line)
    dataset = _in_the_models_order(options, dataset, model)
    plan = _plan(options, dataset, model)
    if device.type == "cpu":
        needed = image_memory(plan.input_size, min(options.batch_size, options.limit))
        check_memory(needed, f"{options.model} with --batch-size {options.batch_size}")
    with folder_lock(folder, "timm-asap heal"):
        _check_output(folder, options.overwrite)
        _heal_and_write(options, plan, plain, device, folder)
    print(RunFolder(folder).load_line)


def _heal_and_write(
    options: HealOptions, plan: Plan, plain: nn.Module | None, device: torch.device, folder: Path
) -> None:
    model, dataset = plan.model, plan.dataset
    architecture = model.pretrained_cfg["architecture"]
    report_on = {"model": options.model, "twin": architecture, **AsapOptions(**_asap_options(model)).__dict__}
    print(", ".join(f"{name} {value}" for name, value in report_on.items()))

    measured = data.leave_out_unreadable(dataset.test) if options.skip_unreadable else dataset.test
    test = _loader(plan, measured)
    model.to(device)
    accuracy = {}
    if plain is not None:
        accuracy["plain"] = _accuracy(plain.to(device), test, device)
    accuracy["before"] = _accuracy(model, test, device)
    few = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(options.seed))[: options.limit]
    chosen = dataset.train.select(few)
    images = _loader(plan, data.leave_out_unreadable(chosen) if options.skip_unreadable else chosen)
    try:
        report = heal(
            model,
            images,
            refit="all" if options.refit_all else options.refit,
            training_distribution=options.training_distribution,
            plain=None if plain is None else plain.to(device),
            ridge=options.ridge,
            seed=options.seed,
        )
    except ValueError as error:
        raise UserError(f"{options.model} cannot be healed: {error}") from error
    print(report)
    accuracy["healed"] = _accuracy(model, test, device)
    print(
        f"accuracy on {dataset.test_name} ({len(measured):,} images): "
        + ", ".join(f"{name} {value:.2f} %" for name, value in accuracy.items())
    )
    best = max(accuracy["healed"], accuracy.get("plain", 0.0))
    if doubt := below_chance(best, len(measured), dataset.num_classes):
        print(doubt, file=sys.stderr)

    about = {key: getattr(dataset, key) for key in ("source", "frame", "test_name")}
    record = {**report_on, "dataset": dataset.name, **about}
    record |= {"versions": package_versions(), "hardware": hardware(device)}
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
    if model.num_classes != dataset.num_classes:
        raise UserError(
            f"{options.model} tells {model.num_classes} classes apart, and {options.dataset} has "
            f"{dataset.num_classes}: heal with the data set that the model was trained on"
        )
    own = model.pretrained_cfg.get("label_names")
    own = tuple(own) if own and len(own) == model.num_classes else None
    try:
        classes = match_labels(dataset.label_names, own, model.num_classes, dataset.class_order)
    except UserError as error:
        raise UserError(f"{options.model} does not fit data set {options.dataset!r}: {error}") from error
    dataset = renumbered(dataset, classes)
    return dataset if own is None else replace(dataset, label_names=own)


def _asap_options(model: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in model._model_args.items() if name in AsapOptions.__dataclass_fields__}


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
    own = model.pretrained_cfg
    small = isinstance(dataset.train, TensorSplit)
    return Plan(
        config=TrainConfig(model=options.model, dataset=options.dataset, batch_size=options.batch_size),
        dataset=dataset,
        model=model,
        input_size=tuple(own["input_size"]),
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        interpolation=own["interpolation"],
        crop_pct=1.0 if small else own["crop_pct"],
    )


def _loader(plan: Plan, split: data.Split) -> DataLoader:
    return data.build_loader(
        split,
        plan.dataset,
        plan.config.batch_size,
        training=False,
        input_size=plan.input_size,
        mean=plan.mean,
        std=plan.std,
        interpolation=plan.interpolation,
        crop_pct=plan.crop_pct,
    )


@torch.no_grad()
def _accuracy(model: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """Percent."""
    model.eval()
    correct = sum((model(images.to(device)).argmax(dim=1).cpu() == labels).sum().item() for images, labels in loader)
    return 100 * correct / len(loader.dataset)
