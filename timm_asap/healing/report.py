"""What healing did: data, to print or to test against."""

from __future__ import annotations

from dataclasses import dataclass

from timm_asap.healing.fidelity import Fidelity

__all__ = ["HealReport", "HealStage", "RefitSite"]


@dataclass(frozen=True)
class RefitSite:
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
    """What :func:`timm_asap.heal` changed, and what it brought.

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
    sites: tuple[RefitSite, ...] = ()
    note: str = ""
    held_out: int = 0
    before: Fidelity | None = None
    stages: tuple[HealStage, ...] = ()

    @property
    def refitted(self) -> tuple[RefitSite, ...]:
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
