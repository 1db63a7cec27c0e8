"""What a training run can be told: one dataclass gives the flags, the help and the YAML recipes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from timm_asap.command_line import Folder, metavar
from timm_asap.errors import UserError
from timm_asap.training.options.adversarial import AdversarialOptions
from timm_asap.training.options.augmentation import AugmentationOptions
from timm_asap.training.options.data import DataOptions
from timm_asap.training.options.model import ModelOptions
from timm_asap.training.options.optimization import OptimizationOptions
from timm_asap.training.options.runtime import RuntimeOptions

_CONCERNS = (ModelOptions, DataOptions, OptimizationOptions, AugmentationOptions, AdversarialOptions, RuntimeOptions)

# What to do with a run, as opposed to what the run is: neither recorded in config.yaml nor taken from a recipe.
ACTIONS = frozenset({"recipe", "resume", "overwrite", "dry_run"})


@dataclass(frozen=True)
class TrainConfig(
    RuntimeOptions, AdversarialOptions, AugmentationOptions, OptimizationOptions, DataOptions, ModelOptions
):
    """Train an image classifier of timm, alias-free or plain, and write one run folder."""

    recipe: Annotated[str, metavar("NAME|FILE")] | None = None
    """A YAML file of these same fields, or the name of a recipe that ships; flags override it. By default the
    recipe named like the data set, where there is one."""
    output: Folder | None = None
    """Folder of the run; by default runs/MODEL.DATASET."""
    resume: bool = False
    """Continue the run in the output folder where it was stopped; start it if there is none."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    dry_run: bool = False
    """Print the resolved configuration and the model's summary, and write nothing."""

    def __post_init__(self) -> None:
        for concern in _CONCERNS:
            concern.__post_init__(self)
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite replaces it: give only one of them")
        if self.output is not None and not self.output.strip():
            raise UserError("--output is empty: expected a folder, such as runs/first")
        self._check_together()

    def _check_together(self) -> None:
        """Combinations that no run can have, across concerns."""
        impossible = {
            "--mixup and --cutmix blend labels, --adversarial attacks one label: leave one of them out": (
                self.mixes and self.adversarial is not None
            ),
            "--random-erasing leaves the pixel range that --adversarial keeps to: leave one of them out": (
                self.random_erasing > 0 and self.adversarial is not None
            ),
            "--teacher and --adversarial both replace the loss: leave one of them out": (
                self.teacher is not None and self.adversarial is not None
            ),
            "--accumulate splits a step, --adversarial free replays it: leave one of them out": (
                self.accumulate > 1 and self.adversarial == "free"
            ),
            "--loss bce and --adversarial: attacks climb the cross-entropy; leave one of them out": (
                self.loss == "bce" and self.adversarial is not None
            ),
            "--repeated-augment needs images at random: leave --streaming out": (
                self.repeated_augment > 1 and self.streaming
            ),
        }
        for message, holds in impossible.items():
            if holds:
                raise UserError(message)

    @property
    def run_folder(self) -> Path:
        """The folder of the run: `output`, or runs/MODEL.DATASET with path signs taken out of both names."""
        if self.output is not None:
            return Path(self.output)
        return Path("runs") / f"{_as_file_name(self.model)}.{_as_file_name(self.dataset)}"

    def recorded(self) -> dict[str, Any]:
        """The fields that describe the run: what config.yaml holds and a recipe may set."""
        return {name: getattr(self, name) for name in RECIPE_KEYS}


RECIPE_KEYS = tuple(f.name for f in fields(TrainConfig) if f.name not in ACTIONS)


def _as_file_name(name: str) -> str:
    for source in ("hf-hub:", "local-dir:"):
        name = name.removeprefix(source)
    last_part = name.replace("\\", "/").rstrip("/").split("/")[-1]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in last_part)


__all__ = ["ACTIONS", "RECIPE_KEYS", "TrainConfig"]
