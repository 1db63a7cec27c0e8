"""Makes the downsampling of a network alias-free in place: what strides, what it becomes, and a report of all of it."""

from timm_asap.conversion.convert import Layout, convert
from timm_asap.conversion.operations import Operation
from timm_asap.conversion.reparameterize import reparameterize
from timm_asap.conversion.report import ConversionReport, DownsamplingLayer
from timm_asap.conversion.saving import conversion_of, restore, save
from timm_asap.conversion.watch import watch

__all__ = [
    "ConversionReport",
    "DownsamplingLayer",
    "Layout",
    "Operation",
    "conversion_of",
    "convert",
    "reparameterize",
    "restore",
    "save",
    "watch",
]
