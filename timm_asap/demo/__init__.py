"""The demo: a picture, what corrupts it, and what an alias-free network and its plain twin make of it."""

import os
from importlib import import_module
from typing import Any

# Gradio reads it when it is imported, and would otherwise report starts and errors to its makers.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

__all__ = ["Answer", "DemoModel", "DemoPair", "build_app", "launch", "open_pair", "predict", "write_space"]

# Gradio takes two seconds to import: only the app itself needs it.
_LAZY = {
    "Answer": "timm_asap.demo.answers",
    "DemoModel": "timm_asap.demo.models",
    "DemoPair": "timm_asap.demo.models",
    "build_app": "timm_asap.demo.app",
    "launch": "timm_asap.demo.app",
    "open_pair": "timm_asap.demo.models",
    "predict": "timm_asap.demo.answers",
    "write_space": "timm_asap.demo.space",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_LAZY[name]), name))
