"""Plots of evaluation records: figures drawn without pyplot, saved as PNGs in full or not at all."""

from timm_asap.evaluation.plots.aliasing import draw_aliasing, draw_spectra
from timm_asap.evaluation.plots.overview import SheetImage, draw_contact_sheet, draw_summary, save_plots
from timm_asap.evaluation.plots.robustness import draw_attacks, draw_corruptions, draw_shift
from timm_asap.figures import save_png

__all__ = [
    "SheetImage",
    "draw_aliasing",
    "draw_attacks",
    "draw_contact_sheet",
    "draw_corruptions",
    "draw_shift",
    "draw_spectra",
    "draw_summary",
    "save_plots",
    "save_png",
]
