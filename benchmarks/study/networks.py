"""The two rivals of the study that timm does not know: BlurPool and the released ASAP in `resnet20_lowres`.

Importing this module registers them with timm, so that they train, save and load like every other model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from timm.layers import BlurPool2d
from timm.models import load_pretrained, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._registry import generate_default_cfgs
from torch import nn

import timm_asap
from timm_asap.conversion.strided import AsapLayer
from timm_asap.ops.reference import ReleasedPool2d

__all__ = ["resnet20_lowres_blur", "resnet20_lowres_released"]

default_cfgs = generate_default_cfgs(
    {f"resnet20_lowres_{rival}": timm.get_pretrained_cfg("resnet20_lowres").to_dict() for rival in ("blur", "released")}
)


@register_model
def resnet20_lowres_blur(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 with BlurPool as antialiased-cnns has it (arXiv 1904.11486): stride 1, ReLU, blur and subsample.

    The filter is timm's default, [1, 2, 1] / 4; a strided 1 x 1 shortcut blurs before its convolution.
    """
    return _change_plain("resnet20_lowres_blur", _put_blurs, pretrained, **kwargs)


@register_model
def resnet20_lowres_released(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 with the pooling that the authors released (`timm_asap.reference`) where the paper's layout puts it."""
    return _change_plain("resnet20_lowres_released", _put_released_pools, pretrained, **kwargs)


def _put_blurs(model: nn.Module) -> None:
    for block in [module for module in model.modules() if getattr(module, "stride", 1) == 2 and hasattr(module, "aa")]:
        block.conv1.stride = (1, 1)
        block.aa = BlurPool2d(block.conv1.out_channels, stride=2)
        conv, norm = block.downsample
        conv.stride = (1, 1)
        block.downsample = nn.Sequential(BlurPool2d(conv.in_channels, stride=2), conv, norm)


def _put_released_pools(model: nn.Module) -> None:
    timm_asap.convert(model, layout="paper")
    pool = ReleasedPool2d("asap")
    for layer in model.modules():
        if isinstance(layer, AsapLayer):
            layer._pool_to_plain_size = pool.forward


def _change_plain(
    architecture: str,
    change: Callable[[nn.Module], None],
    pretrained: bool,
    pretrained_cfg: dict[str, Any] | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """`resnet20_lowres`, changed, that goes by another name when it is saved; weights are those after the change."""
    cfg = resolve_pretrained_cfg(architecture, pretrained_cfg, pretrained_cfg_overlay).to_dict()
    kwargs = {"in_chans": cfg["input_size"][0], "num_classes": cfg["num_classes"], **kwargs}
    model = timm.create_model("resnet20_lowres", **kwargs)
    change(model)
    if pretrained:
        load_pretrained(model, cfg, num_classes=kwargs["num_classes"], in_chans=kwargs["in_chans"])
    model.pretrained_cfg = model.default_cfg = cfg
    return model
