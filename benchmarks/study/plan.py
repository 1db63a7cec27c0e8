"""What is trained: every variant and seed, by one recipe that was fixed before the first result was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
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
        seeds: How many runs it gets.
    """

    title: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: int = 1


VARIANTS = {
    "plain": Variant("plain stride", "resnet20_lowres", seeds=3),
    "asap": Variant("ASAP, preserve", "resnet20_lowres_asap", seeds=3),
    "flc": Variant("FLC, preserve", "resnet20_lowres_asap", {"asap_window": "flc"}, seeds=3),
    "asap_paper": Variant("ASAP, paper", "resnet20_lowres_asap", {"asap_layout": "paper"}, seeds=3),
    "blur": Variant("BlurPool", "resnet20_lowres_blur"),
    "hamming": Variant("ASAP, hamming window", "resnet20_lowres_asap", {"asap_window": "hamming"}),
    "reflect": Variant("ASAP, reflect", "resnet20_lowres_asap", {"asap_boundary": "reflect"}),
    "released": Variant("released ASAP", "resnet20_lowres_released"),
}


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
        if part == "apgd" and self.seed > 0:
            return False
        return not self.attack_trained or part in ("clean", "robustness")

    def settings(self) -> dict[str, Any]:
        """Fields of `TrainConfig`."""
        variant = VARIANTS[self.variant]
        attack = ATTACK if self.attack_trained else {}
        return {**RECIPE, "model": variant.model, "seed": self.seed, **variant.settings, **attack}


def planned_runs() -> list[StudyRun]:
    """Every run, in the order in which they are made: each step answers more of the question."""
    first = [StudyRun(name, 0) for name in VARIANTS]
    several = [name for name, variant in VARIANTS.items() if variant.seeds > 1]
    most = max(variant.seeds for variant in VARIANTS.values())
    more = [StudyRun(name, seed) for name in several for seed in range(1, most)]
    shipped = [run for run in more if run.variant in SHIPPED]
    attacked = [StudyRun(name, 0, attack_trained=True) for name in ATTACK_TRAINED]
    return list(dict.fromkeys([*first[: len(several)], *shipped, *attacked, *first, *more]))
