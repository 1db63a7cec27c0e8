"""What is trained and measured: every variant and seed, by a recipe that was fixed before the first result was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One way of downsampling.

    Attributes:
        title: What tables call it.
        model: Its name in timm.
        settings: Further fields of `TrainConfig`.
    """

    title: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "plain": Variant("plain stride", "resnet20_lowres"),
    "asap": Variant("ASAP, preserve", "resnet20_lowres_asap"),
    "flc": Variant("FLC, preserve", "resnet20_lowres_asap", {"asap_window": "flc"}),
    "asap_paper": Variant("ASAP, paper", "resnet20_lowres_asap", {"asap_layout": "paper"}),
    "blur": Variant("BlurPool", "resnet20_lowres_blur"),
    "hamming": Variant("ASAP, hamming window", "resnet20_lowres_asap", {"asap_window": "hamming"}),
    "reflect": Variant("ASAP, reflect", "resnet20_lowres_asap", {"asap_boundary": "reflect"}),
    "released": Variant("released ASAP", "resnet20_lowres_released"),
}

#: The best seed of these, by held-out accuracy, comes with the package.
SHIPPED = ("plain", "asap")

#: FGSM images are trained on as well (Wong, Rice & Kolter, 2020), to see which network overfits its attack.
ATTACK = {"adversarial": "fgsm", "eps": "8/255"}


@dataclass(frozen=True, eq=False)
class Study:
    """Networks that are trained alike and measured on the same images.

    Attributes:
        name: Folder of its records in `benchmarks/results/`.
        recipe: Fields of `TrainConfig` that every run shares.
        variants: Of `VARIANTS`, in the order in which they are trained.
        seeds: Every variant is trained from each of them.
        parts: Settings of `timm-asap evaluate` by part. In float32, whatever the training used.
        shared: Settings of every part.
        stages: Parts that are measured of all networks before the next are begun.
        attack_trained: Variants whose first seed is trained on FGSM images, too.
        folds: Subfolder of the data for each seed; of none, all seeds have the same data.
    """

    name: str
    recipe: dict[str, Any]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    parts: dict[str, dict[str, Any]]
    shared: dict[str, Any]
    stages: tuple[tuple[str, ...], ...]
    attack_trained: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()

    def runs(self) -> list[StudyRun]:
        """Every run, in the order in which they are made: seed by seed, so that a study cut short is balanced."""
        attacked = [StudyRun(name, self.seeds[0], attack_trained=True, study=self) for name in self.attack_trained]
        first, *more = [[StudyRun(name, seed, study=self) for name in self.variants] for seed in self.seeds]
        return [*first, *attacked, *chain.from_iterable(more)]

    def data_dir(self, root: str, seed: int) -> str:
        """Folder of the data of a seed."""
        return str(Path(root) / self.folds[self.seeds.index(seed)]) if self.folds else root


#: A fifth of the training images is held out for choices.
RECIPE: dict[str, Any] = {
    "dataset": "fashion_mnist",
    "val_share": 0.2,
    "epochs": 3,
    "batch_size": 128,
    "opt": "sgd",
    "lr": 0.2,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "sched": "cosine",
    "warmup_epochs": 0.5,
    "crop_padding": 2,
    "flip": True,
    "channels_last": True,
    "mixed_precision": "bf16",
}

FASHION = Study(
    name="study",
    recipe=RECIPE,
    variants=tuple(VARIANTS),
    seeds=(0, 1, 2),
    parts={
        "clean": {"measures": ("clean",)},
        "robustness": {
            "measures": ("corruptions", "attacks", "shift", "aliasing"),
            "attacks": ("fgsm", "pgd"),
            "limit": 2000,
            "limit_attacks": 1000,
        },
        "held_out": {
            "measures": ("clean", "corruptions", "attacks", "shift"),
            "attacks": ("fgsm",),
            "limit": 300,
            "limit_attacks": 300,
        },
        "apgd": {
            "measures": ("attacks",),
            "attacks": ("apgd-ce",),
            "eps": ("1/255", "4/255"),
            "limit": 2000,
            "limit_attacks": 250,
        },
    },
    shared={"dataset": "fashion_mnist", "seed": 0, "channels_last": True, "plots": False},
    stages=(("clean", "robustness"), ("held_out",), ("apgd",)),
    attack_trained=("plain", "flc", "asap"),
)


@dataclass(frozen=True)
class StudyRun:
    """One network to train and measure."""

    variant: str
    seed: int
    attack_trained: bool = False
    study: Study = FASHION

    @property
    def name(self) -> str:
        """Folder and record of the run."""
        return f"{self.variant}{'.fgsm' if self.attack_trained else ''}.seed{self.seed}"

    def wants(self, part: str) -> bool:
        """Whether a part of what is measured is measured of it: APGD, the most expensive, of first seeds only.

        Args:
            part: Of the study's.
        """
        if part == "apgd" and self.seed != self.study.seeds[0]:
            return False
        return not self.attack_trained or part in ("clean", "robustness")

    def settings(self) -> dict[str, Any]:
        """Fields of `TrainConfig`."""
        variant = VARIANTS[self.variant]
        attack = ATTACK if self.attack_trained else {}
        return {**self.study.recipe, "model": variant.model, "seed": self.seed, **variant.settings, **attack}
