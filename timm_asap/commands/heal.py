"""`timm-asap heal MODEL`: swaps a trained network's strides and repairs it with unlabeled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import tyro

from timm_asap._startup import importing, own_program
from timm_asap.command_line import STEM, Boundary, Folder, Layout, Model, Name, Stem, Window, parse
from timm_asap.data.config import DataConfig
from timm_asap.errors import UserError, check_seed


@dataclass(frozen=True)
class HealOptions(DataConfig):
    """Swap the strides of a trained network, and repair it with the training images of a data set, without labels."""

    sections: ClassVar[dict[str, str]] = {
        "output": "",
        "refit": "healing",
        "layout": "conversion",
        "device": "",
    }

    model: tyro.conf.Positional[Model]
    """A run folder, a pretrained model of timm such as resnet50.a1_in1k, its twin, or hf-hub:NAME."""
    dataset: Name = field(kw_only=True)
    """A data set with the classes of the model, as train.py names it; its labels only measure accuracy."""
    output: Folder = field(kw_only=True)
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
    layout: Layout | None = None
    """preserve (default) or paper."""
    window: Window | None = None
    """asap (default), hamming or flc."""
    boundary: Boundary | None = None
    """circular (default), reflect or zero."""
    stem: Stem | None = None
    """Whether the first layer of the image is converted; auto (default): where its stride is 2 or 3."""
    device: Name | None = None
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

    @property
    def asap_kwargs(self) -> dict[str, Any]:
        """The `asap_*` keywords that were given."""
        given = {f"asap_{name}": getattr(self, name) for name in ("layout", "window", "boundary")}
        given["asap_stem"] = None if self.stem is None else STEM[self.stem]
        return {name: value for name, value in given.items() if value is not None}


def main(argv: Sequence[str]) -> None:
    """Heal, write, and print what it brought."""
    options = parse(HealOptions, argv, prog="timm-asap heal")
    with importing(own_program()):
        from timm_asap.healing.run import run  # torch and timm: not for the help

    run(options)
