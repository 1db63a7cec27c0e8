"""What healing did: data, to print or to test against."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HealReport", "RefitSite"]


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
class HealReport:
    """What :func:`timm_asap.heal` changed.

    Attributes:
        images: Number of images that it used.
        batchnorm: Names of the BatchNorm layers whose statistics were re-estimated.
        batchnorm_left: Names of those that kept theirs, because no image reached them.
        sites: The converted convolutions in the order in which the network runs them; empty without `refit`.
        note: What else there is to know, such as a network without BatchNorm.
    """

    images: int
    batchnorm: tuple[str, ...] = ()
    batchnorm_left: tuple[str, ...] = ()
    sites: tuple[RefitSite, ...] = ()
    note: str = ""

    @property
    def refitted(self) -> tuple[RefitSite, ...]:
        """The convolutions whose weights were changed."""
        return tuple(site for site in self.sites if site.refitted)

    def __str__(self) -> str:
        text = f"healed with {self.images:,} images: {len(self.batchnorm)} BatchNorm layers re-estimated"
        if self.sites:
            text += f", {len(self.refitted)} of {len(self.sites)} converted convolutions refitted"
        lines = [text]
        lines += [f"  {name}: left: no image reached it" for name in self.batchnorm_left]
        lines += [f"  {site}" for site in self.sites]
        lines += [f"  {self.note}"] if self.note else []
        return "\n".join(lines)
