"""`timm-asap heal MODEL`: swaps a trained network's strides and repairs it with unlabelled images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn
from torch.utils.data import DataLoader

import timm_asap  # noqa: F401  registers the twins
from timm_asap import data
from timm_asap.command_line import parse
from timm_asap.data.splits import TensorSplit
from timm_asap.errors import UserError
from timm_asap.healing import batchnorm_layers, heal
from timm_asap.healing.pair import load_pair
from timm_asap.training.config import TrainConfig
from timm_asap.training.export import export_model
from timm_asap.training.facts import hardware, package_versions
from timm_asap.training.files import replace_text
from timm_asap.training.plan import Plan
from timm_asap.training.run_folder import RunFolder
from timm_asap.zoo import AsapOptions

_STEM = {"auto": "auto", "true": True, "false": False}
_OWN_FILES = (
    *("model.safetensors", "config.json", "heal.json", "README.md"),
    *("evaluation.json", "evaluation.safetensors", "comparison.json", "plots"),
)


@dataclass(frozen=True)
class HealOptions:
    """Swap the strides of a trained network, and repair it with the training images of a data set, without labels."""

    model: tyro.conf.Positional[str]
    """A run folder, a pretrained model of timm such as resnet50.a1_in1k, its twin, or hf-hub:NAME."""
    dataset: str
    """A data set with the classes of the model, as train.py names it; its labels only measure accuracy."""
    output: str
    """Folder to write: model.safetensors and config.json, as timm loads them, and heal.json."""
    data_dir: str | None = None
    """Folder that holds the files of the data set."""
    image_key: str | None = None
    """Column that holds the images; by default the only one that does."""
    label_key: str | None = None
    """Column that holds the labels; by default the only one that does."""
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
    folder, device = _output_folder(options), _device(options.device)
    plain, model = load_pair(options.model, options.asap_kwargs)
    if not (options.refit or options.refit_all) and not batchnorm_layers(model):
        raise UserError(f"{options.model} has no BatchNorm, and so no statistics to move: give --refit")
    dataset = data.load_dataset(
        options.dataset, options.data_dir, image_key=options.image_key, label_key=options.label_key
    )
    if model.num_classes != dataset.num_classes:
        raise UserError(
            f"{options.model} tells {model.num_classes} classes apart, and {options.dataset} has "
            f"{dataset.num_classes}: heal with the data set that the model was trained on"
        )
    plan = _plan(options, dataset, model)
    architecture = model.pretrained_cfg["architecture"]
    report_on = {"model": options.model, "twin": architecture, **AsapOptions(**_asap_options(model)).__dict__}
    print(", ".join(f"{name} {value}" for name, value in report_on.items()))

    test = _loader(plan, dataset.test)
    model.to(device)
    accuracy = {}
    if plain is not None:
        accuracy["plain"] = _accuracy(plain.to(device), test, device)
    accuracy["before"] = _accuracy(model, test, device)
    few = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(options.seed))[: options.limit]
    images = _loader(plan, dataset.train.select(few))
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
        f"accuracy on {dataset.test_name} ({len(dataset.test):,} images): "
        + ", ".join(f"{name} {value:.2f} %" for name, value in accuracy.items())
    )

    export_model(plan, model, folder)
    about = {key: getattr(dataset, key) for key in ("source", "frame", "test_name")}
    record = {**report_on, "dataset": dataset.name, **about}
    record |= {"versions": package_versions(), "hardware": hardware(device)}
    record["fidelity"] = {"before": asdict(report.before), "after": asdict(report.after)}
    record |= {"test_images": len(dataset.test), "accuracy": accuracy, "report": asdict(report)}
    replace_text(folder / "heal.json", json.dumps(record, indent=2) + "\n")
    print(RunFolder(folder).load_line)


def _asap_options(model: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in model._model_args.items() if name in AsapOptions.__dataclass_fields__}


def _output_folder(options: HealOptions) -> Path:
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file: expected a folder")
    if folder.is_dir() and any(folder.iterdir()):
        found = {path.name for path in folder.iterdir()}
        if not found <= set(_OWN_FILES):
            raise UserError(f"--output {folder} holds other files: choose another folder")
        if not options.overwrite:
            raise UserError(f"{folder} already holds a healed model: --overwrite replaces it")
    return folder


def _device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).strip().splitlines()[0]}") from error


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
