"""Makes the downsampling of a network alias-free in place: what strides, what it becomes, and a report of all of it."""

from timm_asap.conversion.convert import Layout, convert
from timm_asap.conversion.reparameterize import reparameterize
from timm_asap.conversion.report import ConversionReport, Site

__all__ = ["ConversionReport", "Layout", "Site", "convert", "reparameterize"]
