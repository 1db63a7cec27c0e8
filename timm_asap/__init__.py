"""timm_asap: alias-free downsampling for every convolutional network of timm.

Importing it registers the twins: `timm.create_model("resnet50_asap")`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from timm_asap._installation import explained_imports
from timm_asap._moved import find_moved_modules
from timm_asap._startup import importing, lazy_names, own_program, reads_flags_first

if TYPE_CHECKING:
    from timm_asap import zoo
    from timm_asap.conversion import conversion_of, convert, reparameterize, restore, save, watch
    from timm_asap.healing import heal
    from timm_asap.healing.adapt import adapt
    from timm_asap.ops import reference, spectral
    from timm_asap.ops.layers import (
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
    "adapt",
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

# Modules whose older path is the name of a function or of a public module, which the name goes on meaning.
_MOVED = {
    "convert": "conversion.convert",
    "reference": "ops.reference",
    "reparameterize": "conversion.reparameterize",
    "spectral": "ops.spectral",
}
_MODULES = {"zoo": "zoo", "reference": "ops.reference", "spectral": "ops.spectral"}
_KINDS = [f"{name}{axes}d" for name in ("AsapPool", "AsapUpsample", "LowPass") for axes in (1, 2, 3)]
_FUNCTIONS = [f"{name}{axes}d" for name in ("asap_pool", "asap_upsample", "lowpass") for axes in (1, 2, 3)]
_CONVERSION = ("conversion_of", "convert", "reparameterize", "restore", "save", "watch")
_NAMES = {
    **dict.fromkeys([*_KINDS, *_FUNCTIONS], "timm_asap.ops.layers"),
    **dict.fromkeys(_CONVERSION, "timm_asap.conversion"),
    "load": "timm_asap.zoo",
}
# What most programs do not need is imported when it is first asked for.
_LATER = {"adapt": "timm_asap.healing.adapt", "heal": "timm_asap.healing"}

if not TYPE_CHECKING:  # for a type checker, a name that is not listed does not exist
    __getattr__ = lazy_names(__name__, _NAMES | _LATER)


def register() -> None:
    """Register the twins in timm and bind the public names, as importing this package does.

    Only the package's own command lines call it: they read their flags first. A second call changes nothing.

    Raises:
        InstallationError: A package is missing or broken, or timm is too old or too new; one line says what to do.
    """
    with importing(own_program()), explained_imports():
        find_moved_modules()
        for name, module in _MODULES.items():
            globals()[name] = import_module(f"timm_asap.{module}")
        # after the modules: `timm_asap.convert` is the function, and importing its module binds that
        for name, module in _NAMES.items():
            globals()[name] = getattr(import_module(module), name)
        for old, new in _MOVED.items():
            sys.modules[f"timm_asap.{old}"] = import_module(f"timm_asap.{new}")


if not reads_flags_first():
    register()
