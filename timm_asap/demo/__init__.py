"""The demo: an image, its corruptions, and the predictions of an alias-free network and its plain twin side by side."""

import os
from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.demo.app import build_app, launch
    from timm_asap.demo.models import DemoModel, DemoPair, open_pair
    from timm_asap.demo.predictions import Answer, predict
    from timm_asap.demo.space import write_space

# Gradio reads it when it is imported, and would otherwise report starts and errors to its makers.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

__all__ = ["CLEAN", "Answer", "DemoModel", "DemoPair", "build_app", "launch", "open_pair", "predict", "write_space"]

CLEAN = "none"
"""The choice of a corruption that corrupts nothing."""

# Gradio takes two seconds to import: only the app itself needs it.
_MODULES = {
    "Answer": "timm_asap.demo.predictions",
    "DemoModel": "timm_asap.demo.models",
    "DemoPair": "timm_asap.demo.models",
    "build_app": "timm_asap.demo.app",
    "launch": "timm_asap.demo.app",
    "open_pair": "timm_asap.demo.models",
    "predict": "timm_asap.demo.predictions",
    "write_space": "timm_asap.demo.space",
}

__getattr__ = lazy_names(__name__, _MODULES)
