"""timm_asap: alias-free downsampling for every convolutional network of timm.

Importing it registers the twins: `timm.create_model("resnet50_asap")`.
"""

from timm_asap import reference, spectral, zoo
from timm_asap.convert import convert
from timm_asap.layers import AsapPool2d, LowPass2d, asap_pool2d, lowpass2d

__version__ = "0.1.0"

__all__ = ["AsapPool2d", "LowPass2d", "asap_pool2d", "convert", "lowpass2d", "reference", "spectral", "zoo"]
