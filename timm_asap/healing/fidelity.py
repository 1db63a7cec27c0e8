"""Fidelity: how close a network's predictions are to those of the plain network that it was made of.

Agreement is no accuracy: the plain network may be wrong, and its twin wrong with it. No labels are needed. The report
of what healing did holds the fidelity before and after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.healing.batchnorm import measuring

__all__ = [
    "CONFIDENT",
    "Fidelity",
    "HealReport",
    "HealStage",
    "Outputs",
    "RefitLayer",
    "compare_outputs",
    "divergence",
    "measure_fidelity",
    "outputs_of",
]


CONFIDENT = 0.3
"""Probability of the plain network's top class from which on its prediction counts as confident."""


@dataclass(frozen=True)
class Fidelity:
    """How close a network's outputs are to the plain network's, over some images.

    Attributes:
        images: Number of images.
        error: `|output - plain| / |plain|` over all of them.
        agreement: Percent of the images with the same top class; None where the outputs are no logits.
        agreement_interval: Its 95 % Wilson score interval, in percent, the images taken as independent draws.
        confident_images: Images on which the plain network gives its top class a probability above 0.3.
        confident_agreement: Percent of those with the same top class; None where there are none.
        kl: Mean Kullback-Leibler divergence of the network from the plain one, `sum p log(p / q)`, in nats.
        kl_interval: Its 95 % interval, mean plus and minus 1.96 standard errors.
    """

    images: int
    error: float
    agreement: float | None = None
    agreement_interval: tuple[float, float] | None = None
    confident_images: int = 0
    confident_agreement: float | None = None
    kl: float | None = None
    kl_interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, plain: torch.Tensor, output: torch.Tensor, *, logits: bool = True) -> Fidelity:
        """Compare outputs.

        Args:
            plain: (N, K) outputs of the plain network, floating point.
            output: (N, K) outputs of the other one for the same images.
            logits: Whether they are logits of K classes, or else features.
        """
        plain, output = plain.double(), output.double()
        norm = plain.norm().item()
        distance = (output - plain).norm().item()
        error = distance / norm if norm else (math.inf if distance else 0.0)
        if not logits or plain.shape[1] < 2:
            return cls(len(plain), error)
        same = plain.argmax(dim=1) == output.argmax(dim=1)
        confident = plain.softmax(dim=1).amax(dim=1) > CONFIDENT
        kl = divergence(plain, output)
        mean = kl.mean().item()
        half = 1.959964 * kl.std().item() / math.sqrt(len(kl)) if len(kl) > 1 else math.inf
        return cls(
            images=len(plain),
            error=error,
            agreement=100 * same.double().mean().item(),
            agreement_interval=_wilson(int(same.sum()), len(same)),
            confident_images=int(confident.sum()),
            confident_agreement=100 * same[confident].double().mean().item() if confident.any() else None,
            kl=mean,
            kl_interval=(max(0.0, mean - half), mean + half),
        )

    def is_better_than(self, other: Fidelity) -> bool:
        """Whether the divergence is lower and the agreement no lower; of outputs that are no logits, the error."""
        if self.kl is None or other.kl is None or self.agreement is None or other.agreement is None:
            return self.error < other.error
        return self.kl < other.kl and self.agreement >= other.agreement

    def __str__(self) -> str:
        if self.agreement is None or self.agreement_interval is None or self.kl is None:
            return f"relative error {self.error:.3f}"
        low, high = self.agreement_interval
        text = f"agreement {self.agreement:.1f} % ({low:.1f} to {high:.1f})"
        if self.confident_agreement is not None:
            text += f", {self.confident_agreement:.1f} % where plain is confident"
        return f"{text}, KL {self.kl:.3f}"


def divergence(plain: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the predictions `output` (N, K) from `plain` (N, K), logits: nats, (N,)."""
    p, q = plain.log_softmax(dim=1), output.log_softmax(dim=1)
    return F.kl_div(q, p, log_target=True, reduction="none").sum(dim=1)


class Outputs(NamedTuple):
    """What a model gives for some images."""

    values: torch.Tensor
    """(N, K), float32, on the CPU; maps and lists of tensors are flattened."""
    logits: bool
    """Whether they are logits: a single tensor (B, K), of a model that does not say that it has no classifier."""


@torch.no_grad()
def outputs_of(model: nn.Module, batches: Iterable[torch.Tensor]) -> Outputs:
    """What a model gives for some images, in evaluation mode, its flags left as found.

    Args:
        model: Any network with parameters.
        batches: Images (B, C, H, W), normalized.

    Raises:
        TypeError: If its output holds no tensors.
    """
    parameter = next(model.parameters())
    found, logits = [], getattr(model, "num_classes", None) != 0
    with measuring(model, by_batch=False):
        for batch in batches:
            output = model(batch.to(parameter.device, parameter.dtype))
            logits = logits and isinstance(output, torch.Tensor) and output.ndim == 2
            found.append(_flat(output).float().cpu())
    return Outputs(torch.cat(found), logits)


def compare_outputs(plain: Outputs, output: Outputs) -> Fidelity:
    """The fidelity that two networks' outputs for the same images show.

    Raises:
        ValueError: If those of the plain network are not finite.
    """
    if not plain.values.isfinite().all():
        raise ValueError("the plain network's output is not finite: check the images and the model's weights")
    return Fidelity.of(plain.values, output.values, logits=plain.logits)


def measure_fidelity(plain: nn.Module, model: nn.Module, batches: Iterable[torch.Tensor]) -> Fidelity:
    """Compare a network with the plain one that it was made of.

    Args:
        plain: The plain network.
        model: The other one, with the same classes.
        batches: Images (B, C, H, W), normalized; gone through twice.

    Raises:
        ValueError: If the plain network's output is not finite.
    """
    return compare_outputs(outputs_of(plain, batches), outputs_of(model, batches))


def _flat(output: object) -> torch.Tensor:
    """(B, K) of a tensor or of a list of them."""
    if isinstance(output, torch.Tensor):
        return output.flatten(1)
    if isinstance(output, (list, tuple)) and output and all(isinstance(part, torch.Tensor) for part in output):
        return torch.cat([part.flatten(1) for part in output], dim=1)
    raise TypeError(f"model: expected an output of one tensor or a list of them, got {type(output).__name__}")


def _wilson(right: int, total: int) -> tuple[float, float]:
    # imported here: the core does not need the packages of evaluation unless something is measured
    from timm_asap.evaluation.statistics import wilson_interval

    return wilson_interval(right, total)


@dataclass(frozen=True)
class RefitLayer:
    """One converted convolution and its refit.

    Attributes:
        name: Its name in `model.named_modules()`.
        refitted: Whether its weights were changed.
        reason: Why they were not; empty where they were.
        error_before: `|converted - plain| / |plain|` of its output, over images that the fit did not see, with the
            weights it had; None where it was not measured.
        error_after: The same with the refitted weights.
        seconds: Time that its refit took.
    """

    name: str
    refitted: bool
    reason: str = ""
    error_before: float | None = None
    error_after: float | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        name = self.name or "(root)"
        if self.error_before is None:
            return f"{name}: left: {self.reason}"
        errors = f"relative error {self.error_before:.3f} -> {self.error_after:.3f}"
        return f"{name}: {errors}, {self.seconds:.1f} s" + (f"; left: {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class HealStage:
    """One repair, and what the network was worth after it.

    Attributes:
        name: `"refit"` or `"statistics"`.
        fidelity: To the plain network, after this repair and those before it.
        kept: Whether the network was left with it.
    """

    name: str
    fidelity: Fidelity
    kept: bool


@dataclass(frozen=True)
class HealReport:
    """What `timm_asap.heal` changed, and what it brought.

    Attributes:
        images: Number of images that it used.
        batchnorm: Names of the BatchNorm layers whose statistics were changed.
        batchnorm_left: Names of those that kept theirs, because no image reached them.
        sites: The converted convolutions in the order in which the network runs them; empty without `refit`.
        note: What else there is to know, such as a network without BatchNorm.
        held_out: Number of images that were held out of the repairs, to measure fidelity on.
        before: Fidelity to the plain network before the repairs; None where there was nothing to do.
        stages: The repairs that were tried, in order.
    """

    images: int
    batchnorm: tuple[str, ...] = ()
    batchnorm_left: tuple[str, ...] = ()
    sites: tuple[RefitLayer, ...] = ()
    note: str = ""
    held_out: int = 0
    before: Fidelity | None = None
    stages: tuple[HealStage, ...] = ()

    @property
    def refitted(self) -> tuple[RefitLayer, ...]:
        """The convolutions whose weights were changed."""
        return tuple(site for site in self.sites if site.refitted) if self._kept("refit") else ()

    @property
    def after(self) -> Fidelity | None:
        """Fidelity with the repairs that were kept: that before them, where none was."""
        return next((stage.fidelity for stage in reversed(self.stages) if stage.kept), self.before)

    @property
    def changed(self) -> bool:
        """Whether any repair was kept."""
        return any(stage.kept for stage in self.stages)

    def _kept(self, name: str) -> bool:
        return any(stage.kept for stage in self.stages if stage.name == name)

    def __str__(self) -> str:
        done = [f"{len(self.batchnorm)} BatchNorm layers changed"] if self._kept("statistics") else []
        if self._kept("refit"):
            done.append(f"{len(self.refitted)} of {len(self.sites)} converted convolutions refitted")
        lines = [f"healed with {self.images:,} images: {', '.join(done) or 'nothing changed'}"]
        lines += [f"  {name}: left: no image reached it" for name in self.batchnorm_left]
        lines += [f"  {site}" for site in self.sites]
        lines += [f"  {self.note}"] if self.note else []
        if self.before is not None:
            lines.append(f"  fidelity to the plain network, on {self.held_out:,} images held out of the repair:")
            rows = [("before", self.before, "")]
            rows += [
                (f"after {s.name}", s.fidelity, "" if s.kept else "; not kept, it does not help") for s in self.stages
            ]
            lines += [f"    {name}: {fidelity}{end}" for name, fidelity, end in rows]
        return "\n".join(lines)
