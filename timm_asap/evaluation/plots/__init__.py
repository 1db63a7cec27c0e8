"""Pictures of evaluation records: figures drawn without pyplot, saved as PNGs in full or not at all."""

from timm_asap.evaluation.plots.aliasing import draw_aliasing, draw_spectra
from timm_asap.evaluation.plots.attacks import draw_attacks
from timm_asap.evaluation.plots.contact_sheet import SheetCell, draw_contact_sheet
from timm_asap.evaluation.plots.corruptions import draw_corruptions
from timm_asap.evaluation.plots.folder import save_plots
from timm_asap.evaluation.plots.shift import draw_shift
from timm_asap.evaluation.plots.summary import draw_summary
from timm_asap.training.figures import save_png

__all__ = [
    "SheetCell",
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
