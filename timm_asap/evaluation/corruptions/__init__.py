"""The common corruptions of ImageNet-C and CIFAR-10-C, in batches, on any device."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.evaluation.corruptions.apply import SMALLEST_SIDE, check_request, check_size, corrupt
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

# Whoever reads flags needs the names, and no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "CORRUPTIONS": "timm_asap.evaluation.corruptions.tables",
        "EXTRA_CORRUPTIONS": "timm_asap.evaluation.corruptions.tables",
        "SEVERITIES": "timm_asap.evaluation.corruptions.tables",
        "SMALLEST_SIDE": "timm_asap.evaluation.corruptions.apply",
        "TABLES": "timm_asap.evaluation.corruptions.tables",
        "approximation": "timm_asap.evaluation.corruptions.deviations",
        "check_request": "timm_asap.evaluation.corruptions.apply",
        "check_size": "timm_asap.evaluation.corruptions.apply",
        "corrupt": "timm_asap.evaluation.corruptions.apply",
    },
)
