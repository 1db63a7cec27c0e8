"""How much each downsampling layer of a network aliases: the measurement and its table."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names
from timm_asap.evaluation.aliasing.energy import MapAliasing, map_aliasing
from timm_asap.evaluation.aliasing.measure import LayerAliasing, measure_aliasing, measure_batch, merge_aliasing
from timm_asap.evaluation.aliasing.sites import SampledLayer, sampled_layers

if TYPE_CHECKING:
    from timm_asap.evaluation.aliasing.table import aliasing_table

__all__ = [
    "LayerAliasing",
    "MapAliasing",
    "SampledLayer",
    "aliasing_table",
    "map_aliasing",
    "measure_aliasing",
    "measure_batch",
    "merge_aliasing",
    "sampled_layers",
]

# Whoever measures needs no rich, which draws the table.
__getattr__ = lazy_names(
    __name__,
    {"aliasing_table": "timm_asap.evaluation.aliasing.table"},
    {"SamplingSite": "SampledLayer", "SiteAliasing": "LayerAliasing", "sampling_sites": "sampled_layers"},
)
