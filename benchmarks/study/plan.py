"""What is trained: every variant and seed, by one recipe that was fixed before the first result was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

#: Fields of `TrainConfig` that every run shares. A fifth of the training images is held out for choices.
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

#: Every variant is trained from each of them.
SEEDS = (0, 1, 2)

#: The best seed of these, by held-out accuracy, comes with the package.
SHIPPED = ("plain", "asap")

#: Trained on FGSM images as well (Wong, Rice & Kolter, 2020), to see which overfits its attack.
ATTACK_TRAINED = ("plain", "flc", "asap")
ATTACK = {"adversarial": "fgsm", "eps": "8/255"}


@dataclass(frozen=True)
class StudyRun:
    """One network to train and measure."""

    variant: str
    seed: int
    attack_trained: bool = False

    @property
    def name(self) -> str:
        """Folder and record of the run."""
        return f"{self.variant}{'.fgsm' if self.attack_trained else ''}.seed{self.seed}"

    def wants(self, part: str) -> bool:
        """Whether a part of what is measured is measured of it: APGD, the most expensive, of first seeds only.

        Args:
            part: Of `benchmarks.study.measure.PARTS`.
        """
        if part == "apgd" and self.seed != SEEDS[0]:
            return False
        return not self.attack_trained or part in ("clean", "robustness")

    def settings(self) -> dict[str, Any]:
        """Fields of `TrainConfig`."""
        variant = VARIANTS[self.variant]
        attack = ATTACK if self.attack_trained else {}
        return {**RECIPE, "model": variant.model, "seed": self.seed, **variant.settings, **attack}


def planned_runs() -> list[StudyRun]:
    """Every run, in the order in which they are made: seed by seed, so that a study cut short is balanced."""
    attacked = [StudyRun(name, SEEDS[0], attack_trained=True) for name in ATTACK_TRAINED]
    first, *more = [[StudyRun(name, seed) for name in VARIANTS] for seed in SEEDS]
    return [*first, *attacked, *chain.from_iterable(more)]
