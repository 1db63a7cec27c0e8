"""From a run folder to a model that others can find, trust and load."""

from importlib import import_module
from typing import Any

__all__ = ["Published", "check_card", "export_onnx", "load", "publish", "write_card"]

# Whoever loads a model needs neither the card's templates nor the training package.
_LAZY = {
    "Published": "timm_asap.hub.publishing",
    "check_card": "timm_asap.hub.card_check",
    "export_onnx": "timm_asap.hub.onnx_export",
    "load": "timm_asap.zoo",
    "publish": "timm_asap.hub.publishing",
    "write_card": "timm_asap.hub.card",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_LAZY[name]), name))
