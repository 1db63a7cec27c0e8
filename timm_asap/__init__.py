"""timm_asap: alias-free downsampling for every convolutional network of timm.

Importing it registers the twins: `timm.create_model("resnet50_asap")`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from timm_asap._start import importing, own_program
from timm_asap._startup import lazy_names, reads_flags_first

if TYPE_CHECKING:
    from timm_asap import reference, spectral, zoo
    from timm_asap.convert import convert
    from timm_asap.healing import heal
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

_MODULES = ("zoo", "reference", "spectral")
_NAMES = {
    "AsapPool2d": "timm_asap.layers",
    "LowPass2d": "timm_asap.layers",
    "asap_pool2d": "timm_asap.layers",
    "convert": "timm_asap.convert",
    "load": "timm_asap.zoo",
    "lowpass2d": "timm_asap.layers",
    "reparameterize": "timm_asap.reparameterize",
}
# What most programs do not need is imported when it is first asked for.
_LATER = {"adapt": "timm_asap.healing.adapt", "heal": "timm_asap.healing"}

if not TYPE_CHECKING:  # for a type checker, a name that is not listed does not exist
    __getattr__ = lazy_names(__name__, _NAMES | _LATER)


def register() -> None:
    """Register the twins in timm and bind the public names, as importing this package does.

    Only the package's own command lines call it: they read their flags first. A second call changes nothing.
    """
    with importing(own_program()):
        for name in _MODULES:
            globals()[name] = import_module(f"timm_asap.{name}")
        # after the modules: `timm_asap.convert` is the function, and importing its module binds that
        for name, module in _NAMES.items():
            globals()[name] = getattr(import_module(module), name)


if not reads_flags_first():
    register()
