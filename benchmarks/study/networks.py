"""The two rivals of the study that timm does not know: BlurPool and the released ASAP in `resnet20_lowres`.

Importing this module registers them with timm, so that they train, save and load like every other model.
"""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import BlurPool2d
from timm.models import register_model
from timm.models._registry import generate_default_cfgs
from torch import nn

import timm_asap
from timm_asap.reference import ReleasedPool2d
from timm_asap.strided import AsapLayer

__all__ = ["resnet20_lowres_blur", "resnet20_lowres_released"]

default_cfgs = generate_default_cfgs(
    {f"resnet20_lowres_{rival}": timm.get_pretrained_cfg("resnet20_lowres").to_dict() for rival in ("blur", "released")}
)


@register_model
def resnet20_lowres_blur(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 with BlurPool as antialiased-cnns has it (arXiv 1904.11486): stride 1, ReLU, blur and subsample.

    The filter is timm's default, [1, 2, 1] / 4; a strided 1 x 1 shortcut blurs before its convolution.
    """
    model = _plain("resnet20_lowres_blur", kwargs)
    for block in [module for module in model.modules() if getattr(module, "stride", 1) == 2 and hasattr(module, "aa")]:
        block.conv1.stride = (1, 1)
        block.aa = BlurPool2d(block.conv1.out_channels, stride=2)
        conv, norm = block.downsample
        conv.stride = (1, 1)
        block.downsample = nn.Sequential(BlurPool2d(conv.in_channels, stride=2), conv, norm)
    return model


@register_model
def resnet20_lowres_released(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 with the pooling that the authors released (`timm_asap.reference`) where the paper's layout puts it."""
    model = _plain("resnet20_lowres_released", kwargs)
    timm_asap.convert(model, layout="paper")
    pool = ReleasedPool2d("asap")
    for layer in model.modules():
        if isinstance(layer, AsapLayer):
            layer._pool_to_plain_size = pool.forward
    return model


def _plain(architecture: str, kwargs: dict[str, Any]) -> nn.Module:
    """`resnet20_lowres` that goes by another name when it is saved."""
    kwargs = {name: value for name, value in kwargs.items() if not name.startswith("pretrained_cfg")}
    model = timm.create_model("resnet20_lowres", **kwargs)
    model.pretrained_cfg = {**model.pretrained_cfg, "architecture": architecture}
    model.default_cfg = model.pretrained_cfg
    return model
