"""What a conversion did, site by site: data, to print or to test against."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ConversionReport", "Site"]


@dataclass(frozen=True)
class Site:
    """One strided layer of a network.

    Attributes:
        name: Its name in `model.named_modules()`; empty for the root.
        layer: What it was: class, kernel and stride.
        converted: Whether it wears the operator now because of this conversion.
        becomes: What it became, in words; empty where it was left.
        reason: Why it was left; empty where it was converted.
        input_size: (channels, height, width) of the map that reached it; None where no input size was given.
        macs: Multiply-adds of the plain layer for one image (none for a maximum); None where no size was given.
        added_macs: Multiply-adds that the operator adds for one image; None where no size was given or it was left.
        note: A warning, such as a map too small to keep more than its mean.
    """

    name: str
    layer: str
    converted: bool
    becomes: str = ""
    reason: str = ""
    input_size: tuple[int, int, int] | None = None
    macs: int | None = None
    added_macs: int | None = None
    note: str = ""


@dataclass(frozen=True)
class ConversionReport:
    """Every strided layer that :func:`timm_asap.convert` met, in the order of the model's modules.

    Attributes:
        sites: The strided layers.
        layout: `"preserve"` or `"paper"`.
        window: Window name.
        boundary: Boundary name.
        stem: What was asked for the first layer of the image.
        macs: Multiply-adds of all convolutions and linear layers for one image; None where no size was given.
    """

    sites: tuple[Site, ...]
    layout: str
    window: str
    boundary: str
    stem: str | bool
    macs: int | None = None

    @property
    def converted(self) -> tuple[Site, ...]:
        """The sites that this conversion changed."""
        return tuple(site for site in self.sites if site.converted)

    @property
    def left(self) -> tuple[Site, ...]:
        """The sites that stayed as they were, each with its reason."""
        return tuple(site for site in self.sites if not site.converted)

    @property
    def added_macs(self) -> int | None:
        """Multiply-adds that the converted sites add for one image; None where no input size was given.

        Layers that an image does not reach, of which timm's DLA and auxiliary heads have some, add none.
        """
        if self.macs is None:
            return None
        return sum(site.added_macs or 0 for site in self.converted)

    def __str__(self) -> str:
        text = f"{len(self.converted)} strided layers converted ({self.layout}, {self.window}, {self.boundary})"
        if self.left:
            text += f", {len(self.left)} left as they were"
        lines = [text]
        lines += [f"  {site.name or '(root)'}: {site.layer} -> {site.becomes}" for site in self.converted]
        lines += [f"  {site.name or '(root)'}: {site.layer} left: {site.reason}" for site in self.left]
        lines += [f"  {site.name or '(root)'}: {site.note}" for site in self.sites if site.note]
        return "\n".join(lines)
