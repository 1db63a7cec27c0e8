"""What aliases at the downsampling sites of both networks: a figure, and a sentence on each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from timm_asap.demo.models import DemoModel, DemoPair
from timm_asap.evaluation.aliasing import SiteAliasing
from timm_asap.evaluation.plots import draw_spectra
from timm_asap.text import as_text

__all__ = ["compare_spectra"]

# A share of the energy; alias-free sites stay far below.
_ROUNDING = 1e-6


def compare_spectra(pair: DemoPair, pixels: torch.Tensor) -> tuple[np.ndarray, str]:
    """Measure and draw what each network's strides sample.

    Args:
        pair: The networks.
        pixels: (B, C, H, W) in [0, 1].

    Returns:
        The figure, uint8 (H, W, 3), and Markdown: where each network aliases most.
    """
    named = {"plain strides": pair.plain, "alias-free": pair.twin}
    measured = {name: model.aliasing(pixels) for name, model in named.items()}
    figure = draw_spectra([_record(name, sites) for name, sites in measured.items()])
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    lines = [_worst(named[name], name, sites) for name, sites in measured.items()]
    return picture, "\n".join(f"- {line}" for line in lines)


def _record(name: str, sites: list[SiteAliasing]) -> dict[str, Any]:
    """What the figure needs of an evaluation record."""
    return {"model": {"name": name}, "results": [site.record() for site in sites]}


def _worst(model: DemoModel, name: str, sites: list[SiteAliasing]) -> str:
    if not sites:
        return f"**{name}** ({_title(model)}): no downsampling site"
    worst = max(sites, key=lambda site: site.folded)
    if worst.folded < _ROUNDING:
        return f"**{name}** ({_title(model)}): **less than 0.0001 %** of what is sampled is aliasing, at every site"
    left = f", which conversion leaves: {worst.reason}" if worst.status == "left" else ""
    where = f"`{worst.site}`{left}" if worst.site else "its only layer"
    percent = f"{100 * worst.folded:.1f} %" if worst.folded >= 1e-3 else f"{100 * worst.folded:.4f} %"
    return f"**{name}** ({_title(model)}): up to **{percent}** of what is sampled is aliasing, at {where}"


def _title(model: DemoModel) -> str:
    return as_text(model.title, "markdown")
