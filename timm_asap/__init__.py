"""timm_asap: alias-free downsampling for every convolutional network of timm.

Importing it registers the twins: `timm.create_model("resnet50_asap")`.
"""

import sys
from importlib import import_module
from typing import Any

from timm_asap._start import importing, own_program

with importing(own_program()):
    from timm_asap import reference, spectral, zoo
    from timm_asap.conversion import conversion_of, convert, reparameterize, restore, save, watch
    from timm_asap.layers import (
        AsapPool1d,
        AsapPool2d,
        AsapPool3d,
        AsapUpsample1d,
        AsapUpsample2d,
        AsapUpsample3d,
        LowPass1d,
        LowPass2d,
        LowPass3d,
        asap_pool1d,
        asap_pool2d,
        asap_pool3d,
        asap_upsample1d,
        asap_upsample2d,
        asap_upsample3d,
        lowpass1d,
        lowpass2d,
        lowpass3d,
    )
    from timm_asap.zoo import load

__version__ = "0.1.0"

__all__ = [
    "AsapPool1d",
    "AsapPool2d",
    "AsapPool3d",
    "AsapUpsample1d",
    "AsapUpsample2d",
    "AsapUpsample3d",
    "LowPass1d",
    "LowPass2d",
    "LowPass3d",
    "asap_pool1d",
    "asap_pool2d",
    "asap_pool3d",
    "asap_upsample1d",
    "asap_upsample2d",
    "asap_upsample3d",
    "conversion_of",
    "convert",
    "heal",
    "load",
    "lowpass1d",
    "lowpass2d",
    "lowpass3d",
    "reference",
    "reparameterize",
    "restore",
    "save",
    "spectral",
    "watch",
    "zoo",
]

# Paths of modules before they moved: programs and whole-model pickles that name them still load.
_MOVED = {
    "attention": "conversion.sites",
    "convert": "conversion.convert",
    "functional_sites": "conversion.sites",
    "geometry": "conversion.geometry",
    "report": "conversion.report",
    "reparameterize": "conversion.reparameterize",
    "strided": "conversion.strided",
    "trace": "conversion.observe",
}
for _old, _new in _MOVED.items():
    _module = sys.modules[f"timm_asap.{_old}"] = import_module(f"timm_asap.{_new}")
    globals().setdefault(_old, _module)  # `timm_asap.convert` and `timm_asap.reparameterize` stay the functions

# What most programs do not need is imported when it is first asked for.
_LAZY = {"heal": "timm_asap.healing"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_LAZY[name]), name))
