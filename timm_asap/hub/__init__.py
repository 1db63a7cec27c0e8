"""From a run folder to a model that others can find, trust and load."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.hub.card import write_card
    from timm_asap.hub.checks import check_card
    from timm_asap.hub.onnx_export import export_onnx
    from timm_asap.hub.publishing import Published, publish
    from timm_asap.zoo import load

__all__ = ["Published", "check_card", "export_onnx", "load", "publish", "write_card"]

# Whoever loads a model needs neither the card's templates nor the training package.
__getattr__ = lazy_names(
    __name__,
    {
        "Published": "timm_asap.hub.publishing",
        "check_card": "timm_asap.hub.checks",
        "export_onnx": "timm_asap.hub.onnx_export",
        "load": "timm_asap.zoo",
        "publish": "timm_asap.hub.publishing",
        "write_card": "timm_asap.hub.card",
    },
)
