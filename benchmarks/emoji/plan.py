"""The emoji study, and what it was expected to show: written down before its first network was trained.

Looked at before: the study of Fashion-MNIST (`benchmarks/study`), from which the hypotheses come. Of emoji, one plain
network of seed 100 in its first two epochs, to see that the recipe trains and how long it takes: it is not counted.

Seeds are numbered so that each leaves another vendor out: seed 0 and 4 Apple, 1 and 5 Google, 2 and 6 Twitter, 3 and 7
Facebook. Runs are made seed by seed; the study ends when its time does, whatever the results say, and counts every seed
that all variants have.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.emoji.images import VENDORS
from benchmarks.study.plan import RECIPE, Study

SEEDS = tuple(range(8))

EMOJI = Study(
    name="emoji",
    recipe=RECIPE
    | {
        "dataset": "imagefolder",
        "val_share": 0.1,
        "epochs": 8,
        "batch_size": 64,
        "lr": 0.1,
        "mixed_precision": "no",
    },
    variants=("plain", "asap", "blur"),
    seeds=SEEDS,
    parts={
        "clean": {"measures": ("clean",)},
        "robustness": {
            "measures": ("corruptions", "attacks", "shift", "aliasing"),
            "attacks": ("fgsm", "pgd"),
            "eps": ("0.5/255", "1/255", "2/255"),
            "limit": 600,
            "limit_attacks": 200,
        },
    },
    shared={"dataset": "imagefolder", "seed": 0, "channels_last": True, "plots": False},
    stages=(("clean", "robustness"),),
    folds=tuple(VENDORS[seed % len(VENDORS)] for seed in SEEDS),
)


@dataclass(frozen=True)
class Hypothesis:
    """What ASAP (`preserve`) does against the plain stride.

    Attributes:
        says: In words.
        measure: `clean`, or a group of `benchmarks.study.results.GROUPS`.
        rises: Whether the accuracy was expected to rise or to fall.
    """

    says: str
    measure: str
    rises: bool = True


HYPOTHESES = (
    Hypothesis("accuracy on the vendor that was left out rises", "clean"),
    Hypothesis("accuracy under the 15 corruptions rises", "15 corruptions"),
    Hypothesis("accuracy under noise rises", "noise"),
    Hypothesis("accuracy under blur falls", "blur", rises=False),
    Hypothesis("accuracy under PGD rises", "PGD-20"),
    Hypothesis("predictions stay more often when the image is shifted", "crop shift"),
)
"""Each is tested by a paired t test over the seeds, two-sided, with Holm's correction for all of them at 5 %. It holds
where the test is significant and the sign is as expected, fails where it is significant the other way, and is undecided
else. That ASAP helps here would be shown by the first or the second; that it does harm, by one of them falling."""
