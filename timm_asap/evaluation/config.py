"""The configuration of an evaluation: one dataclass gives the flags and their help."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from timm_asap.adversarial import ATTACKS, NORMS, parse_eps
from timm_asap.command_line import File, Folder, Name, metavar
from timm_asap.data.config import DataConfig
from timm_asap.errors import UserError, check_seed, unknown_name
from timm_asap.evaluation.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS

__all__ = ["ACTIONS", "MEASURES", "SHIFTS", "EvaluateConfig"]

MEASURES = ("clean", "corruptions", "attacks", "shift", "aliasing")
"""In the order in which they run."""

SHIFTS = ("circular", "crop")
"""Of `timm_asap.evaluation.shift.ShiftKind`, without torch."""

DEFAULT_PIXELS = (0.5, 1.0, 2.0, 4.0)
"""Distances that images are shifted by when none are named."""

TABLES = ("auto", "imagenet", "cifar")

SPLITS = ("test", "all")

# Where networks trained without adversarial images break; RobustBench looks at 8/255 in linf and 0.5 in l2 on CIFAR-10.
_DEFAULT_EPS = {
    "linf": ("0.5/255", "1/255", "2/255", "4/255", "8/255"),
    "l2": ("0.0625", "0.125", "0.25", "0.5", "1"),
}

# What to do with an evaluation, as opposed to what it is.
ACTIONS = frozenset(
    {"models", "data_dir", "device", "num_workers", "reference", "plots", "output", "resume", "overwrite"}
)


@dataclass(frozen=True)
class EvaluateConfig(DataConfig):
    """Measure how robust trained models are: clean, corrupted, attacked, shifted, aliased."""

    sections: ClassVar[dict[str, str]] = {
        "dataset": "data",
        "measures": "measurement",
        "limit": "size",
        "device": "runtime",
        "reference": "",
    }

    models: tyro.conf.Positional[Annotated[tuple[str, ...], metavar("MODEL [MODEL ...]")]]
    """Run folders, pretrained models of timm such as resnet50.a1_in1k, their twins, or hf-hub:NAME."""
    dataset: Name = field(kw_only=True)
    """The data set, as train.py names it, or imagenet-c, cifar10-c, imagenet-a, imagenet-r, imagenet-v2 or
    class-folders, read from --data-dir as they are."""
    split: Annotated[str, metavar("|".join(SPLITS))] = "test"
    """test, or all: every image of a data set that no model was trained on."""

    measures: Annotated[tuple[str, ...], metavar("MEASURE ...")] = MEASURES
    """What to measure."""
    corruptions: Annotated[tuple[str, ...], metavar("NAME ...")] = CORRUPTIONS
    """Names of corruptions, extra for the four beyond the usual fifteen, or all."""
    severities: Annotated[tuple[int, ...], metavar("1..5 ...")] = (1, 2, 3, 4, 5)
    """Severities of the corruptions, 1 to 5."""
    table: Annotated[str, metavar("|".join(TABLES))] = "auto"
    """Parameters of the corruptions: imagenet (ImageNet-C), cifar (CIFAR-10-C), or auto: cifar up to 64 pixels."""
    attacks: Annotated[tuple[str, ...], metavar("ATTACK ...")] = ("fgsm", "pgd")
    """Attacks: fgsm, pgd, apgd-ce, square, autoattack; the last three need pip install 'timm_asap[attacks]'."""
    eps: Annotated[tuple[str, ...], metavar("EPS ...")] = ()
    """Radii of the attacks on the [0, 1] pixel scale, as numbers or fractions; by default 0.5/255, 1/255, 2/255, 4/255
    and 8/255 in linf, and 0.0625 to 1 in l2."""
    norm: Annotated[str, metavar("|".join(NORMS))] = "linf"
    """Norm of the attacks."""
    steps: int | None = None
    """Gradient steps of PGD (by default 20) and APGD (by default 100)."""
    step_size: float | None = None
    """Length of a step of PGD on the [0, 1] pixel scale; by default 2.5 eps / steps."""
    restarts: int = 1
    """Random starts of PGD and APGD."""
    check_masking: bool = False
    """Also run what reveals masked gradients at the middle eps: Square, and PGD without a bound."""
    shifts: Annotated[tuple[str, ...], metavar("circular|crop ...")] = SHIFTS
    """How images are shifted."""
    shift_pixels: Annotated[tuple[float, ...], metavar("PIXELS ...")] = DEFAULT_PIXELS
    """How far, in pixels."""

    limit: int | None = None
    """Images to measure on, drawn by class in proportion; by default all."""
    limit_attacks: int | None = 1000
    """Images to attack, out of those; None attacks all."""
    limit_aliasing: int = 256
    """Images to measure aliasing on, out of those."""
    batch_size: int = 256
    """Images that run at a time; each process takes whole batches."""
    seed: int = 0
    """Seeds which images are drawn, and every random number of corruptions, attacks and shifts."""
    device: Name | None = None
    """Device to run on; by default cuda where there is one, else cpu."""
    channels_last: bool = False
    """Keep weights and feature maps in channels-last memory order: faster on most hardware, equal up to rounding."""
    num_workers: int = 0
    """Worker processes that decode large images, per process."""
    reference: File | None = None
    """evaluation.json of the model to give the mean corruption error (mCE) against."""
    plots: bool = True
    """Draw the plots."""
    output: Folder | None = None
    """Folder of the evaluation; by default the run folder itself, else evaluations/MODEL. Several models get a
    folder each in it."""
    resume: bool = False
    """Go on with the evaluation in the output folder."""
    overwrite: bool = False
    """Replace the evaluation in the output folder."""

    # which fields were asked for: what no flag sets, and so without a type, which would make a field of it
    _given = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the dataclass is frozen for everybody else
        for name in ("measures", "corruptions", "attacks", "eps", "shifts"):
            set_field(self, name, _split_commas(getattr(self, name)))
        set_field(self, "corruptions", _expand_corruptions(self.corruptions))
        if not self.models:
            raise UserError("expected one model or more: a run folder, a pretrained model of timm, or hf-hub:NAME")
        self._check_words()
        self._check_numbers()
        if self.resume and self.overwrite:
            raise UserError("--resume continues an evaluation and --overwrite replaces it: give only one of them")

    def _check_words(self) -> None:
        for name, kind, known in (
            ("measures", "measure", MEASURES),
            ("corruptions", "corruption", (*CORRUPTIONS, *EXTRA_CORRUPTIONS)),
            ("attacks", "attack", ATTACKS),
            ("shifts", "shift", SHIFTS),
        ):
            words = getattr(self, name)
            if unknown := [word for word in words if word not in known]:
                raise UserError(f"--{name}: {unknown_name(kind, unknown[0], known)}")
            if not words or len(set(words)) < len(words):
                raise UserError(f"--{name}: expected one {kind} or more, each once, got {' '.join(words) or 'none'}")
        for name, known in (("table", TABLES), ("norm", NORMS), ("split", SPLITS)):
            if getattr(self, name) not in known:
                raise UserError(f"--{name}: {unknown_name(name, getattr(self, name), known)}")

    def _check_numbers(self) -> None:
        for name in ("steps", "restarts", "limit", "limit_attacks", "limit_aliasing", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')}: expected 1 or more, got {value}")
        check_seed(self.seed)
        if self.num_workers < 0:
            raise UserError(f"--num-workers: expected 0 or more, got {self.num_workers}")
        wrong = [severity for severity in self.severities if not 1 <= severity <= 5]
        if wrong or not self.severities or len(set(self.severities)) < len(self.severities):
            came = " ".join(map(str, self.severities)) or "none"
            raise UserError(f"--severities: expected numbers from 1 to 5, each once, got {came}")
        if not self.shift_pixels or len(set(self.shift_pixels)) < len(self.shift_pixels):
            raise UserError("--shift-pixels: expected one distance or more, each once")
        if len(set(self.eps_values)) < len(self.eps_values):
            raise UserError(f"--eps: expected each once, got {' '.join(self.eps)}")

    @property
    def given(self) -> frozenset[str]:
        """The fields that were asked for; of a configuration made in Python, those that are not at their defaults."""
        if self._given is not None:
            return self._given
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)

    def given_as(self, given: frozenset[str]) -> EvaluateConfig:
        """The same configuration, knowing which fields were asked for."""
        config = copy.copy(self)
        object.__setattr__(config, "_given", given)
        return config

    def changed(self, **changes: Any) -> EvaluateConfig:
        """A configuration with other values, which keeps in mind what was asked for."""
        return replace(self, **changes).given_as(self.given)

    @property
    def eps_values(self) -> tuple[float, ...]:
        """`eps`, or the default, as numbers on the [0, 1] pixel scale.

        Raises:
            UserError: If one is none, negative, or too large.
        """
        try:
            return tuple(parse_eps(text, self.norm) for text in self.eps or _DEFAULT_EPS[self.norm])
        except UserError as error:
            raise UserError(f"--eps: {error}") from error

    def flags(self, **changes: Any) -> list[str]:
        """The shortest command-line words that give this configuration.

        Args:
            changes: Fields that take another value in them.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)} | changes
        words = [*map(str, values.pop("models"))]
        for f in fields(self):
            value = values.get(f.name)
            if f.name == "models" or value == f.default:
                continue
            flag = f.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            elif isinstance(value, tuple):
                words += [f"--{flag}", *map(str, value)]
            elif isinstance(value, list):
                words += [f"--{flag}", json.dumps(value)]
            else:
                words += [f"--{flag}", str(value)]
        return words

    def deciding(self) -> dict[str, Any]:
        """The fields that decide the numbers, by flag, as JSON values."""
        values = {f"--{f.name.replace('_', '-')}": getattr(self, f.name) for f in fields(self) if f.name not in ACTIONS}
        values["--eps"] = self.eps_values
        values["--skip-unreadable"] = self.skip_unreadable or None  # as if it were not there, as it once was not
        return {flag: list(value) if isinstance(value, tuple) else value for flag, value in values.items()}

    def output_folder(self, name: str) -> Path:
        """Where the evaluation of a model that has no run folder goes.

        Args:
            name: The model.
        """
        if self.output is None:
            return Path("evaluations") / as_file_name(name)
        return Path(self.output) if len(self.models) == 1 else Path(self.output) / as_file_name(name)


def as_file_name(name: str) -> str:
    """A model's name as that of a folder: its last part, other signs replaced."""
    for source in ("hf-hub:", "local-dir:"):
        name = name.removeprefix(source)
    last_part = name.replace("\\", "/").rstrip("/").split("/")[-1]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in last_part)


def _split_commas(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for word in words for part in str(word).split(",") if part)


def _expand_corruptions(words: tuple[str, ...]) -> tuple[str, ...]:
    groups = {"all": (*CORRUPTIONS, *EXTRA_CORRUPTIONS), "extra": EXTRA_CORRUPTIONS}
    return tuple(name for word in words for name in groups.get(word, (word,)))
