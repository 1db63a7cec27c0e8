"""timm_asap: alias-free downsampling for every convolutional network of timm.

Importing it registers the twins: `timm.create_model("resnet50_asap")`.
"""

from importlib import import_module
from typing import Any

from timm_asap._start import importing, own_program

with importing(own_program()):
    from timm_asap import reference, spectral, zoo
    from timm_asap.convert import convert
    from timm_asap.layers import AsapPool2d, LowPass2d, asap_pool2d, lowpass2d
    from timm_asap.reparameterize import reparameterize
    from timm_asap.zoo import load

__version__ = "0.1.0"

__all__ = [
    "AsapPool2d",
    "LowPass2d",
    "adapt",
    "asap_pool2d",
    "convert",
    "heal",
    "load",
    "lowpass2d",
    "reference",
    "reparameterize",
    "spectral",
    "zoo",
]

# What most programs do not need is imported when it is first asked for.
_LAZY = {"adapt": "timm_asap.healing.adapt", "heal": "timm_asap.healing"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_LAZY[name]), name))
