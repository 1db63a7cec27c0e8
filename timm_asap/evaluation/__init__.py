"""Measures how robust a network is: accuracy, corruptions, attacks, shifts and aliasing."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.evaluation.comparison import compare
    from timm_asap.evaluation.config import EvaluateConfig
    from timm_asap.evaluation.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
    from timm_asap.evaluation.record import Record, read_record
    from timm_asap.evaluation.run import evaluate

__all__ = [
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "EvaluateConfig",
    "Record",
    "compare",
    "corrupt",
    "evaluate",
    "read_record",
]

# What a program that only reads flags, or only corrupts images, does not need is imported when it is first asked for.
__getattr__ = lazy_names(
    __name__,
    {
        "CORRUPTIONS": "timm_asap.evaluation.corruptions.tables",
        "EXTRA_CORRUPTIONS": "timm_asap.evaluation.corruptions.tables",
        "EvaluateConfig": "timm_asap.evaluation.config",
        "Record": "timm_asap.evaluation.record",
        "compare": "timm_asap.evaluation.comparison",
        "corrupt": "timm_asap.evaluation.corruptions.apply",
        "evaluate": "timm_asap.evaluation.run",
        "read_record": "timm_asap.evaluation.record",
    },
)
