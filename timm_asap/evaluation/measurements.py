"""The measurements of an evaluation, and their sharding and reduction over processes.

Each knows its place in the record and what it does with a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import nn

from timm_asap._types import present
from timm_asap.adversarial import AttackSpec, PixelModel, run_attack
from timm_asap.data import Split
from timm_asap.errors import UserError, first_line
from timm_asap.evaluation.corruptions import corrupt
from timm_asap.evaluation.models import Batch
from timm_asap.evaluation.shift import ShiftSpec, shift_consistency

__all__ = [
    "AttackMeasurement",
    "CleanMeasurement",
    "CorruptionMeasurement",
    "Measurement",
    "Outcome",
    "Processes",
    "ShiftMeasurement",
    "resolve_device",
]


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


class Measurement(Protocol):
    """One entry of `results`."""

    @property
    def measure(self) -> str:
        """clean, corruption, attack or shift."""
        ...

    @property
    def metric(self) -> str:
        """What the share of right images is called: accuracy or consistency."""
        ...

    @property
    def split(self) -> Callable[[], Split] | None:
        """Gives images of its own, where they are not those of the whole evaluation."""
        ...

    @property
    def batch_size(self) -> int | None:
        """Images that must run at a time, where any number will not do."""
        ...

    @property
    def id(self) -> str:
        """Its name in the record."""
        ...

    @property
    def passes(self) -> float:
        """About how many forward passes an image takes: for the time that is left."""
        ...

    def record(self) -> dict[str, Any]:
        """All that produced it, without what came out."""
        ...

    def run(self, model: PixelModel, batch: Batch) -> Outcome:
        """Measures one batch.

        Args:
            model: Pixels in [0, 1] to scores.
            batch: Some of the images.
        """
        ...


@dataclass(frozen=True)
class CleanMeasurement:
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

    def run(self, model: PixelModel, batch: Batch) -> Outcome:
        """Classifies them."""
        return _classify(model, batch.pixels, batch.labels)


@dataclass(frozen=True)
class CorruptionMeasurement:
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

    def run(self, model: PixelModel, batch: Batch) -> Outcome:
        """Corrupts and classifies."""
        pixels = batch.pixels
        if self.split is None:
            pixels = corrupt(
                pixels, self.corruption, self.severity, self.table, present(self.seed, "seed"), batch.positions
            )
        return _classify(model, pixels, batch.labels)


@dataclass(frozen=True)
class AttackMeasurement:
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
        runs = 5000 if self.spec.steps is None else self.spec.steps * (self.spec.restarts or 1)
        return 1 + (runs if self.spec.name in ("square", "autoattack") else 3 * runs)

    def record(self) -> dict[str, Any]:
        """All that the attack was told, and its version."""
        return self.spec.record()

    def run(self, model: PixelModel, batch: Batch) -> Outcome:
        """Attacks, and says which images were still classified right."""
        outcome = run_attack(model, batch.pixels, batch.labels, self.spec, batch.positions)
        return Outcome(outcome.robust.cpu(), warnings=outcome.warnings)


@dataclass(frozen=True)
class ShiftMeasurement:
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

    def run(self, model: PixelModel, batch: Batch) -> Outcome:
        """Says of which images the class stayed the same."""
        return Outcome(shift_consistency(model, batch.pixels, self.spec, batch.positions).cpu())


@torch.no_grad()
def _classify(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> Outcome:
    scores = model(pixels).float()
    loss = F.cross_entropy(scores, labels, reduction="none")
    return Outcome((scores.argmax(dim=1) == labels).cpu(), loss.cpu())


class Processes:
    """The processes that `accelerate launch` or `torchrun` started; one without them.

    Args:
        device: Where to compute; by default the process's own GPU, or the CPU where there is none.

    Raises:
        UserError: If there is no such device, or if it cannot be shared by the processes.
    """

    def __init__(self, device: str | None = None) -> None:
        # several processes without a GPU must be told so: accelerate 1.15 would run each as if it were alone
        self._state = PartialState(cpu=not torch.accelerator.is_available())
        self.device: torch.device = present(self._state.device, "device") if device is None else resolve_device(device)
        if self.count > 1 and self.device.type != "cpu" and self.device.index is not None and device is not None:
            raise UserError(f"--device {device}: {self.count} processes each take their own; leave the flag out")

    @property
    def count(self) -> int:
        """How many there are."""
        return self._state.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self._state.is_main_process

    def share(self, batches: list[int]) -> list[int]:
        """The batches, of those that are left, which this process measures: whole ones, in turn."""
        return batches[self._state.process_index :: self.count]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes of a CPU tensor in which each filled in its own part, and zeros elsewhere.

        Adding zeros changes no bit, so the result does not depend on the number of processes.
        """
        if self.count == 1:
            return values
        return cast(torch.Tensor, reduce(values.to(self._state.device), "sum")).cpu()  # a tensor gives a tensor

    def gather(self, own: list[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes."""
        return own if self.count == 1 else gather_object(own)

    def wait(self) -> None:
        """Go on when all have come here."""
        self._state.wait_for_everyone()


def resolve_device(name: str | None) -> torch.device:
    """The device of that name; without one cuda where there is one, else the CPU.

    Raises:
        UserError: If PyTorch does not know it, or cannot compute on it here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # a sum comes back only where something computes: "meta" makes tensors, and no numbers
        total = torch.ones(2, device=torch.device(name)).sum()
        if total.item() != 2:
            raise RuntimeError("it does not add")
    except Exception as error:  # a missing backend shows itself as any of a dozen kinds
        why = first_line(error).split(". ")[0][:120]
        raise UserError(f"--device {name} cannot be used: {why}; expected cpu or cuda") from error
    return total.device
