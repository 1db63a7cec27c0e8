"""The common corruptions of ImageNet-C and CIFAR-10-C, in batches, on any device."""

from timm_asap.evaluation.corruptions.apply import corrupt
from timm_asap.evaluation.corruptions.checks import SMALLEST_SIDE, check_request, check_size
from timm_asap.evaluation.corruptions.deviations import approximation
from timm_asap.evaluation.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, TABLES

__all__ = [
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "SEVERITIES",
    "SMALLEST_SIDE",
    "TABLES",
    "approximation",
    "check_request",
    "check_size",
    "corrupt",
]
