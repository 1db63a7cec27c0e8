"""How much each downsampling site of a network aliases: measured, tabled."""

from timm_asap.evaluation.aliasing.energy import MapAliasing, map_aliasing
from timm_asap.evaluation.aliasing.measure import SiteAliasing, measure_aliasing, measure_batch, merge_aliasing
from timm_asap.evaluation.aliasing.sites import SamplingSite, sampling_sites
from timm_asap.evaluation.aliasing.table import aliasing_table

__all__ = [
    "MapAliasing",
    "SamplingSite",
    "SiteAliasing",
    "aliasing_table",
    "map_aliasing",
    "measure_aliasing",
    "measure_batch",
    "merge_aliasing",
    "sampling_sites",
]
