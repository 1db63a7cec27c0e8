"""The measurements: each knows its place in the record and what it does with a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.data import Split
from timm_asap.evaluation.attacks import AttackSpec, run_attack
from timm_asap.evaluation.corruptions import corrupt
from timm_asap.evaluation.pixels import Batch
from timm_asap.evaluation.shift import ShiftSpec, shift_consistency

__all__ = ["AttackCell", "Cell", "CleanCell", "CorruptionCell", "Outcome", "ShiftCell"]


@dataclass(frozen=True)
class Outcome:
    """What each image of a batch did.

    Args:
        right: bool, (B,), on the CPU.
        loss: Cross-entropy, float32 (B,), on the CPU; None where it says nothing.
        warnings: One-line reasons to doubt it.
    """

    right: torch.Tensor
    loss: torch.Tensor | None = None
    warnings: tuple[str, ...] = ()


class Cell(Protocol):
    """One entry of `results`."""

    measure: str
    """clean, corruption, attack or shift."""
    metric: str
    """What the share of right images is called: accuracy or consistency."""
    split: Callable[[], Split] | None
    """Gives images of its own, where they are not those of the whole evaluation."""
    batch_size: int | None
    """Images that must run at a time, where any number will not do."""

    @property
    def id(self) -> str:
        """Its name in the record."""

    @property
    def passes(self) -> float:
        """About how many forward passes an image takes: for the time that is left."""

    def record(self) -> dict[str, Any]:
        """All that produced it, without what came out."""

    def run(self, model: nn.Module, batch: Batch) -> Outcome:
        """Measures one batch.

        Args:
            model: Pixels in [0, 1] to scores.
            batch: Some of the images.
        """


@dataclass(frozen=True)
class CleanCell:
    """The images as they are."""

    measure = "clean"
    metric = "accuracy"
    id = "clean"
    split = None
    batch_size = None
    passes = 1.0

    def record(self) -> dict[str, Any]:
        """Nothing besides its id."""
        return {}

    def run(self, model: nn.Module, batch: Batch) -> Outcome:
        """Classifies them."""
        return _classify(model, batch.pixels, batch.labels)


@dataclass(frozen=True)
class CorruptionCell:
    """One corruption at one severity.

    Args:
        corruption: Its name.
        severity: 1 to 5.
        table: "imagenet" or "cifar".
        seed: Of its random numbers; None for images that came corrupted.
        approximate: How it differs from the original definition; None where it does not.
        split: Gives the images that came corrupted.
    """

    corruption: str
    severity: int
    table: str
    seed: int | None
    approximate: str | None = None
    split: Callable[[], Split] | None = None

    measure = "corruption"
    metric = "accuracy"
    batch_size = None
    passes = 2.0

    @property
    def id(self) -> str:
        """corruption/NAME/SEVERITY."""
        return f"corruption/{self.corruption}/{self.severity}"

    def record(self) -> dict[str, Any]:
        """Name, severity, table, seed, and how it is approximate."""
        return {
            "corruption": self.corruption,
            "severity": self.severity,
            "table": self.table,
            "seed": self.seed,
            "approximate": self.approximate,
        }

    def run(self, model: nn.Module, batch: Batch) -> Outcome:
        """Corrupts and classifies."""
        pixels = batch.pixels
        if self.split is None:
            pixels = corrupt(pixels, self.corruption, self.severity, self.table, self.seed, batch.positions)
        return _classify(model, pixels, batch.labels)


@dataclass(frozen=True)
class AttackCell:
    """One attack at one eps."""

    spec: AttackSpec

    measure = "attack"
    metric = "accuracy"
    split = None

    @property
    def id(self) -> str:
        """attack/NAME-NORM/EPS."""
        return self.spec.id

    @property
    def batch_size(self) -> int | None:
        """That of the attack."""
        return self.spec.batch_size

    @property
    def passes(self) -> float:
        """A gradient takes as long as three forward passes; AutoAttack's four attacks take about 5,000 in all."""
        runs = 5000 if self.spec.steps is None else self.spec.steps * self.spec.restarts
        return 1 + (runs if self.spec.name in ("square", "autoattack") else 3 * runs)

    def record(self) -> dict[str, Any]:
        """All that the attack was told, and its version."""
        return self.spec.record()

    def run(self, model: nn.Module, batch: Batch) -> Outcome:
        """Attacks, and says which images were still classified right."""
        outcome = run_attack(model, batch.pixels, batch.labels, self.spec, batch.positions)
        return Outcome(outcome.robust.cpu(), warnings=outcome.warnings)


@dataclass(frozen=True)
class ShiftCell:
    """One kind of shift by one distance."""

    spec: ShiftSpec

    measure = "shift"
    metric = "consistency"
    split = None
    batch_size = None
    passes = 2.0

    @property
    def id(self) -> str:
        """shift/KIND/PIXELS."""
        return self.spec.id

    def record(self) -> dict[str, Any]:
        """All that the shift was told."""
        return self.spec.record()

    def run(self, model: nn.Module, batch: Batch) -> Outcome:
        """Says of which images the class stayed the same."""
        return Outcome(shift_consistency(model, batch.pixels, self.spec, batch.positions).cpu())


@torch.no_grad()
def _classify(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> Outcome:
    scores = model(pixels).float()
    loss = F.cross_entropy(scores, labels, reduction="none")
    return Outcome((scores.argmax(dim=1) == labels).cpu(), loss.cpu())
