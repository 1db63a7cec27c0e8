"""Flags of `timm-asap adapt`, and the fields of `timm_asap.adapt`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_args

import tyro

from timm_asap.command_line import STEM, Boundary, Folder, Layout, Model, Name, Stem, Window, flag
from timm_asap.errors import UserError, unknown_name
from timm_asap.training.options import Precision, check_range

__all__ = ["AdaptConfig"]

# What to do with a run, as opposed to what it is: not recorded.
_ACTIONS = frozenset({"resume", "overwrite"})


@dataclass(frozen=True)
class AdaptConfig:
    """Adapt a twin to the plain network's predictions, without labels, and write one run folder."""

    sections: ClassVar[dict[str, str]] = {
        "model": "",
        "images": "images",
        "output": "",
        "steps": "training",
        "layout": "conversion",
        "mixed_precision": "",
    }

    model: tyro.conf.Positional[Model] = ""
    """A pretrained model of timm such as resnet50.a1_in1k, its twin, a run folder, or hf-hub:NAME."""
    images: Folder | None = None
    """Folder of images, of any kind and without labels; looked through with all that is under it."""
    held_out: Folder | None = None
    """Folder of images to measure fidelity on; by default a fifth of --images, which is then not trained on."""
    dataset: Name | None = None
    """Instead of --images: a data set as train.py names it; its labels are ignored."""
    data_dir: Folder | None = None
    """Folder that holds the files of --dataset."""
    image_key: Name | None = None
    """Column of --dataset that holds the images; by default the only one that does."""
    label_key: Name | None = None
    """Column of --dataset that holds the labels; by default the only one that does."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, with a warning, instead of stopping."""
    output: Folder | None = None
    """Folder of the run; by default runs/TWIN.adapted."""
    steps: int | None = None
    """Optimizer steps; by default as many as --minutes allow."""
    minutes: float | None = None
    """Time to train for, as a step is timed at the start; 30 by default."""
    batch_size: int = 32
    """Images per optimizer step, over all processes together."""
    lr: float = 5e-4
    """Peak learning rate of AdamW, as a share of the root mean square of each tensor of weights; a cosine brings it to
    0."""
    features: float = 1.0
    """Weight of the relative squared distance between both networks' maps after each alias-free layer."""
    refit: bool = True
    """First refit every convolution in closed form, and move the BatchNorm statistics, where it helps."""
    blend: float = 0.0
    """Fraction of the steps over which the plain strides turn into the alias-free ones, from one end to the other; 0
    trains the twin from the first step."""
    train_image_size: int | None = None
    """Side in pixels of large images in training; by default about 0.7 of the network's own, which is what fidelity
    is measured at."""
    crop_scale: float = 0.1
    """Least share of the area of a large image that its random crop keeps."""
    mixup: float = 0.0
    """Alpha of mixup: images are blended by a share drawn from Beta(alpha, alpha); the teacher sees the same blend."""
    teacher: Model | None = None
    """Network to learn from; by default MODEL with its strides as they were."""
    layout: Layout | None = None
    """preserve (default) or paper."""
    window: Window | None = None
    """asap (default), hamming or flc."""
    boundary: Boundary | None = None
    """circular (default), reflect or zero."""
    stem: Stem | None = None
    """Whether the first layer of the image is converted; auto (default): where its stride is 2 or 3."""
    mixed_precision: Precision = None
    """Precision of the forward and backward pass; by default what accelerate is configured for, else fp32."""
    num_workers: int = 0
    """Worker processes that prepare large images."""
    seed: int = 0
    """Seeds the order of the images and their augmentation."""
    resume: bool = False
    """Continue the run in the output folder where it was stopped; start it if there is none."""
    overwrite: bool = False
    """Replace the run in the output folder."""

    def __post_init__(self) -> None:
        check_range(self, "steps", 1)
        check_range(self, "batch_size", 2)
        check_range(self, "minutes lr", 0, open_low=True)
        check_range(self, "features mixup num_workers seed", 0)
        check_range(self, "crop_scale", 0, 1, open_low=True)
        check_range(self, "blend", 0, 1)
        check_range(self, "train_image_size", 16)
        for name in ("images", "held_out", "data_dir", "output"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise UserError(f"{flag(name)} is empty: expected a folder")
        if self.steps is not None and self.minutes is not None:
            raise UserError("--steps and --minutes both say how long: give only one of them")
        if self.images is not None and self.dataset is not None:
            raise UserError("--images and --dataset both name the images: give only one of them")
        if self.held_out is not None and self.images is None:
            raise UserError("--held-out goes with --images: a data set has a test split of its own")
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite replaces it: give only one of them")
        for name, kind in (("layout", Layout), ("window", Window), ("boundary", Boundary), ("stem", Stem)):
            if (value := getattr(self, name)) is not None and value not in get_args(kind):
                raise UserError(f"--{name}: {unknown_name(name, value, get_args(kind))}")

    @property
    def asap_kwargs(self) -> dict[str, Any]:
        """The `asap_*` keywords that were given."""
        given = {f"asap_{name}": getattr(self, name) for name in ("layout", "window", "boundary")}
        given["asap_stem"] = None if self.stem is None else STEM[self.stem]
        return {name: value for name, value in given.items() if value is not None}

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        if self.output is not None:
            return Path(self.output)
        name = self.model.rpartition(":")[2].replace("\\", "/").rstrip("/").split("/")[-1]
        return Path("runs") / f"{name.partition('.')[0].removesuffix('_asap')}_asap.adapted"

    def recorded(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ACTIONS}
