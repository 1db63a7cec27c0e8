"""How much each downsampling layer of a network aliases: the measurement and its table."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names
from timm_asap.evaluation.aliasing.energy import MapAliasing, map_aliasing
from timm_asap.evaluation.aliasing.measure import SiteAliasing, measure_aliasing, measure_batch, merge_aliasing
from timm_asap.evaluation.aliasing.sites import SamplingSite, sampling_sites

if TYPE_CHECKING:
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

# Whoever measures needs no rich, which draws the table.
__getattr__ = lazy_names(__name__, {"aliasing_table": "timm_asap.evaluation.aliasing.table"})
