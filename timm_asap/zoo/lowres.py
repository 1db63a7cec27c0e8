"""Low-resolution networks of the paper and of its field, for images of 28 to 64 pixels.

One class holds all three: a 3 x 3 stem that keeps the resolution, stages that halve it, and timm's blocks. Shortcuts
are strided 1 x 1 convolutions, so that conversion sees them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d, ClassifierHead, create_conv2d
from timm.models import build_model_with_cfg, checkpoint_seq, register_model
from timm.models.resnet import BasicBlock, make_blocks
from timm.models.resnetv2 import PreActBasic, ResNetStage
from torch import nn

from timm_asap._timm import (
    factory_kwargs,
    feature_take_indices,
    generate_default_cfgs,
    pooled_features,
    register_notrace_function,
)
from timm_asap.zoo.shipped import shipped_cfgs

__all__ = ["LowResNet"]

_BatchNormReLU = partial(BatchNormAct2d, act_layer=nn.ReLU)


class LowResNet(nn.Module):
    """Residual network for small images: stem at full resolution, then one stage per entry of `layers`.

    Args:
        layers: Residual blocks of two 3 x 3 convolutions in each stage. Every stage but the first halves the
            resolution.
        channels: Output channels of each stage.
        stem_chs: Output channels of the 3 x 3 stem.
        preact: Batch normalization and ReLU before each convolution (He et al., 2016b) rather than after.
        num_classes: Classes of the head; 0 gives pooled features.
        in_chans: Channels of the image.
        global_pool: timm's pooling type of the head.
        drop_rate: Dropout probability before the classifier.
        drop_path_rate: Stochastic depth rate of the last block; it grows linearly from 0.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        channels: tuple[int, ...],
        stem_chs: int = 16,
        preact: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd = factory_kwargs(device, dtype)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        self.conv1 = nn.Conv2d(in_chans, stem_chs, 3, padding=1, bias=False, **dd)
        self.norm1 = nn.Identity() if preact else _BatchNormReLU(stem_chs, **dd)
        self.feature_info = [{"num_chs": stem_chs, "reduction": 1, "module": "norm1"}]
        build_stages = _preact_stages if preact else _postact_stages
        self.stage_names = []
        reduction = 1
        for index, stage in enumerate(build_stages(layers, channels, stem_chs, drop_path_rate, dd)):
            name = f"layer{index + 1}"
            reduction *= 2 if index > 0 else 1
            self.add_module(name, stage)
            self.stage_names.append(name)
            self.feature_info.append({"num_chs": channels[index], "reduction": reduction, "module": name})
        self.num_features = channels[-1]
        self.norm = _BatchNormReLU(self.num_features, **dd) if preact else nn.Identity()
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = pooled_features(self.head)
        if not dd:
            self.to(device, dtype)
        self.init_weights()

    @torch.jit.ignore  # pyright: ignore[reportArgumentType]  # declared for use with arguments alone
    def init_weights(self) -> None:
        """He initialization of the convolutions; the classifier keeps PyTorch's."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @torch.jit.ignore  # pyright: ignore[reportArgumentType]  # declared for use with arguments alone
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions of parameter groups, for layer decay."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)(?:\.blocks)?\.(\d+)"
        return {"stem": r"^conv1|norm1", "blocks": [(blocks, None), (r"^norm\.", (99999,))]}

    @torch.jit.ignore  # pyright: ignore[reportArgumentType]  # declared for use with arguments alone
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass."""
        self.grad_checkpointing = enable

    @torch.jit.ignore  # pyright: ignore[reportArgumentType]  # declared for use with arguments alone
    def get_classifier(self) -> nn.Module:
        """The classifier layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one; `global_pool` None keeps the pooling."""
        weight = self.conv1.weight
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head.to(weight.device, weight.dtype)
        self.head_hidden_size = pooled_features(self.head)

    def _run_stage(self, name: str, x: torch.Tensor) -> torch.Tensor:
        stage = getattr(self, name)
        if self.grad_checkpointing:
            return checkpoint_seq(getattr(stage, "blocks", stage), x)
        return stage(x)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Features of the stem and of each stage, as timm's `forward_intermediates`.

        Args:
            x: Images (B, C, H, W).
            indices: The last n if a number, all if None, else those listed.
            norm: Apply the final normalization to the last stage's features.
            stop_early: Stop after the last wanted stage.
            output_fmt: `"NCHW"` alone.
            intermediates_only: Leave the final features out.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: expected 'NCHW', got {output_fmt!r}")
        take_indices, max_index = feature_take_indices(len(self.stage_names) + 1, indices)
        intermediates = []
        x = self.norm1(self.conv1(as_grey(x, self.in_chans)))
        if 0 in take_indices:
            intermediates.append(x)
        stages = self.stage_names[:max_index] if stop_early else self.stage_names
        for index, name in enumerate(stages, start=1):
            x = self._run_stage(name, x)
            if index in take_indices:
                last = index == len(self.stage_names)
                intermediates.append(self.norm(x) if norm and last else x)
        if intermediates_only:
            return intermediates
        return (self.norm(x) if len(stages) == len(self.stage_names) else x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the wanted intermediates do not need, as timm's `prune_intermediate_layers`."""
        take_indices, max_index = feature_take_indices(len(self.stage_names) + 1, indices)
        for name in self.stage_names[max_index:]:
            delattr(self, name)
        pruned = max_index < len(self.stage_names)
        self.stage_names = self.stage_names[:max_index]
        if prune_norm or pruned:
            self.norm = nn.Identity()
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) to the last stage's features; a network for gray images takes RGB too."""
        x = self.norm1(self.conv1(as_grey(x, self.in_chans)))
        for name in self.stage_names:
            x = self._run_stage(name, x)
        return self.norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features to logits, or to pooled features."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


@register_notrace_function  # whose name must not begin with an underscore, or fx would trace it
def as_grey(x: torch.Tensor, in_chans: int) -> torch.Tensor:
    """RGB as a network for gray images takes it: transformers' pipeline makes every image RGB.

    The weights are those of ITU-R BT.601, as in Pillow's gray; they sum to 1, so normalization by one mean and one std
    commutes with them.
    """
    if in_chans != 1 or x.shape[1] != 3:
        return x
    return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def _postact_stages(
    layers: tuple[int, ...],
    channels: tuple[int, ...],
    stem_chs: int,
    drop_path_rate: float,
    dd: dict[str, Any],
) -> list[nn.Module]:
    stages, _ = make_blocks(
        (BasicBlock,) * len(layers),
        channels,
        layers,
        stem_chs,
        norm_layer=nn.BatchNorm2d,
        act_layer=nn.ReLU,
        drop_path_rate=drop_path_rate,
        **dd,
    )
    return [stage for _, stage in stages]


def _preact_stages(
    layers: tuple[int, ...],
    channels: tuple[int, ...],
    stem_chs: int,
    drop_path_rate: float,
    dd: dict[str, Any],
) -> list[nn.Module]:
    rates = torch.linspace(0, drop_path_rate, sum(layers), device="cpu").split(layers)
    stages = []
    for index, depth in enumerate(layers):
        stages.append(
            ResNetStage(
                stem_chs if index == 0 else channels[index - 1],
                channels[index],
                stride=1 if index == 0 else 2,
                dilation=1,
                depth=depth,
                bottle_ratio=1.0,
                block_dpr=rates[index].tolist(),
                block_fn=PreActBasic,
                act_layer=nn.ReLU,
                conv_layer=create_conv2d,
                norm_layer=_BatchNormReLU,
                **dd,
            )
        )
    return stages


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "first_conv": "conv1",
        "classifier": "head.fc",
        **kwargs,
    }


# The star makes a tag the default: a network that is built without weights takes RGB.
default_cfgs = generate_default_cfgs(
    {
        **{f"resnet20_lowres.{tag}": cfg for tag, cfg in shipped_cfgs("resnet20_lowres").items()},
        "resnet20_lowres.untrained*": _cfg(),
        "preact_resnet18_lowres.untrained": _cfg(pool_size=(4, 4)),
        "wide_resnet28_10_lowres.untrained": _cfg(),
    }
)


def _create_lowres(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    depth = len(kwargs["layers"])
    return build_model_with_cfg(
        LowResNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": tuple(range(depth + 1))},
        **kwargs,
    )


@register_model
def resnet20_lowres(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for small images, 0.27 M parameters (He et al., 2016, section 4.2, with projection shortcuts)."""
    return _create_lowres("resnet20_lowres", pretrained, layers=(3, 3, 3), channels=(16, 32, 64), stem_chs=16, **kwargs)


@register_model
def preact_resnet18_lowres(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PreAct ResNet-18 for small images, 11.17 M parameters: the CIFAR network of arXiv 2307.09804."""
    return _create_lowres(
        "preact_resnet18_lowres",
        pretrained,
        layers=(2, 2, 2, 2),
        channels=(64, 128, 256, 512),
        stem_chs=64,
        preact=True,
        **kwargs,
    )


@register_model
def wide_resnet28_10_lowres(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-28-10 for small images, 36.5 M parameters (Zagoruyko & Komodakis, 2016)."""
    return _create_lowres(
        "wide_resnet28_10_lowres",
        pretrained,
        layers=(4, 4, 4),
        channels=(160, 320, 640),
        stem_chs=16,
        preact=True,
        **kwargs,
    )
