"""What a training run can be told: one dataclass gives the flags, the help and the YAML recipes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from timm_asap.errors import UserError, unknown_name

SCHEDULES = ("constant", "cosine", "poly", "step", "tanh")

# What to do with a run, as opposed to what the run is: neither recorded in config.yaml nor taken from a recipe.
ACTIONS = frozenset({"recipe", "resume", "overwrite", "dry_run"})


def _json_flag(metavar: str, *choices: Any) -> PrimitiveConstructorSpec:
    """A flag spelled as in JSON and YAML: one of a few words, or any JSON object where no words are given."""

    def read(words: list[str]) -> Any:
        try:
            value = json.loads(words[0])
        except json.JSONDecodeError:
            value = None if words[0] == "None" else words[0]
        # compared with their types, or 1 would pass for true
        known = (type(value), value) in [(type(choice), choice) for choice in choices]
        if not known and not (isinstance(value, dict) and not choices):
            raise ValueError(f"got {words[0]!r}")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, (bool, str, dict)),
        str_from_instance=lambda value: [json.dumps(value) if isinstance(value, (bool, dict)) else str(value)],
    )


_Switch = Annotated[bool | None, _json_flag("true|false", True, False, None)]
_Stem = Annotated[bool | str | None, _json_flag("auto|true|false", "auto", True, False, None)]
_Precision = Annotated[str | None, _json_flag("fp32|bf16|fp16", "fp32", "bf16", "fp16", None)]
_JsonObject = Annotated[dict[str, Any], _json_flag("JSON-OBJECT")]


@dataclass(frozen=True)
class TrainConfig:
    """Train an image classifier of timm, alias-free or plain, and write one run folder."""

    model: str = "resnet20_lowres_asap"
    """Any model name of timm, such as resnet50_asap or convnext_tiny, or hf-hub:NAME, or local-dir:FOLDER."""
    dataset: str = "digits"
    """digits, fashion_mnist, idx, imagefolder, or an image data set of the Hugging Face Hub such as
    uoft-cs/cifar10."""
    data_dir: str | None = None
    """Folder that holds the files of the data set."""
    image_key: str | None = None
    """Column that holds the images; by default the only one that does."""
    label_key: str | None = None
    """Column that holds the labels; by default the only one that does."""
    train_split: str | None = None
    """Split to train on; by default train."""
    test_split: str | None = None
    """Split to test on; by default test or validation, or a fifth held out of the training images."""
    recipe: str | None = None
    """A YAML file of these same fields, or the name of a recipe that ships; flags override it. By default the
    recipe named like the data set, where there is one."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images per optimizer step, over all processes together."""
    opt: str = "sgd"
    """Optimizer, by timm's name for it; sgd has Nesterov momentum."""
    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Momentum of the optimizers that take one."""
    weight_decay: float = 5e-4
    """Weight decay; biases and normalisation layers have none."""
    sched: str = "cosine"
    """Learning-rate schedule, set at every step: constant, cosine, poly, step or tanh."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up, part of --epochs."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in [0, 1)."""
    crop_padding: int | None = None
    """Pixels of padding before the random crop of small images; by default what suits the data set."""
    flip: _Switch = None
    """Mirror half of the images; by default what suits the data set."""

    pretrained: bool = False
    """Start from the model's pretrained weights, with the mean and std that they were trained with."""
    asap_window: str | None = None
    """Window of an *_asap model: asap, hamming or flc."""
    asap_boundary: str | None = None
    """Boundary of an *_asap model: circular, reflect or zero."""
    asap_layout: str | None = None
    """Layout of an *_asap model: preserve or paper."""
    asap_stem: _Stem = None
    """Whether an *_asap model converts its stem: auto (strides 2 and 3), true or false."""
    model_kwargs: _JsonObject = field(default_factory=dict)
    """Further keywords of timm.create_model, as JSON: '{"drop_path_rate": 0.1}'."""

    mixed_precision: _Precision = None
    """Precision of the forward and backward pass; by default what accelerate is configured for, else fp32."""
    channels_last: bool = False
    """Keep images and weights in channels-last memory order."""
    num_workers: int = 0
    """Worker processes per training process that decode large images; images up to 64 px need none."""
    seed: int = 0
    """Seeds the first weights, the order of the images and their augmentation. Which images are held out where a
    data set has no test split does not depend on it: runs of different seeds are tested on the same images."""

    output: str | None = None
    """Folder of the run; by default runs/MODEL.DATASET."""
    resume: bool = False
    """Continue the run in the output folder, from its last finished epoch; start it if there is none."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    dry_run: bool = False
    """Print the resolved configuration and the model's summary, and write nothing."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("warmup_epochs", "weight_decay", "crop_padding", "num_workers", "seed"):
            value = getattr(self, name)
            _require(value is None or (value >= 0 and math.isfinite(value)), name, "zero or more", value)
        _require(self.lr > 0 and math.isfinite(self.lr), "lr", "a number above 0", self.lr)
        _require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        if self.sched not in SCHEDULES:
            raise UserError(unknown_name("schedule", self.sched, SCHEDULES))
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"--warmup-epochs is part of --epochs: expected at most {self.epochs}, got {self.warmup_epochs:g}"
            )
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite replaces it: give only one of them")
        if self.output is not None and not self.output.strip():
            raise UserError("--output is empty: expected a folder, such as runs/first")

    @property
    def run_folder(self) -> Path:
        """The folder of the run: `output`, or runs/MODEL.DATASET with path signs taken out of both names."""
        if self.output is not None:
            return Path(self.output)
        return Path("runs") / f"{_as_file_name(self.model)}.{_as_file_name(self.dataset)}"

    @property
    def asap_kwargs(self) -> dict[str, Any]:
        """The `asap_*` keywords that were given."""
        values = {name: getattr(self, name) for name in _FIELDS if name.startswith("asap_")}
        return {name: value for name, value in values.items() if value is not None}

    def recorded(self) -> dict[str, Any]:
        """The fields that describe the run: what config.yaml holds and a recipe may set."""
        return {name: getattr(self, name) for name in _FIELDS if name not in ACTIONS}


_FIELDS = tuple(f.name for f in fields(TrainConfig))
RECIPE_KEYS = tuple(name for name in _FIELDS if name not in ACTIONS)


def flag(name: str) -> str:
    """The command-line spelling of a field: `data_dir` is `--data-dir`."""
    return "--" + name.replace("_", "-")


def _require(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise UserError(f"{flag(name)}: expected {expected}, got {value}")


def _as_file_name(name: str) -> str:
    for source in ("hf-hub:", "local-dir:"):
        name = name.removeprefix(source)
    last_part = name.replace("\\", "/").rstrip("/").split("/")[-1]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in last_part)
