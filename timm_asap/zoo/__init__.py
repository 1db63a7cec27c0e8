"""The twins of timm's convolutional networks, and low-resolution networks of the paper's field."""

from timm_asap.zoo import lowres  # noqa: F401  registers the low-resolution networks, which get twins too
from timm_asap.zoo.asap_twins import AsapOptions, is_twin, plain_name, register_twins, twin_names
from timm_asap.zoo.create import check_model_name, create_model, load, model_folder
from timm_asap.zoo.shipped import is_shipped

register_twins()

__all__ = [
    "AsapOptions",
    "check_model_name",
    "create_model",
    "is_shipped",
    "is_twin",
    "load",
    "model_folder",
    "plain_name",
    "twin_names",
]
