"""Measures how robust a network is: accuracy, corruptions, attacks, shifts and aliasing."""

from importlib import import_module
from typing import Any

from timm_asap.evaluation.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt

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

# What a program that only corrupts images does not need is imported when it is first asked for.
_LAZY = {
    "EvaluateConfig": "timm_asap.evaluation.config",
    "Record": "timm_asap.evaluation.record",
    "compare": "timm_asap.evaluation.comparison",
    "evaluate": "timm_asap.evaluation.run",
    "read_record": "timm_asap.evaluation.record",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_LAZY[name]), name))
