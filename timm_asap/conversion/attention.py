"""Tells the strided layers that downsample a network's main path from those that only shorten an attention.

Keys and values at a coarser grid, and gates that are computed small and enlarged again, are reductions inside
attention: they are left. Where the queries stride, so does the output, and the layer is converted like any other.
"""

from __future__ import annotations

import re

from torch import nn

__all__ = ["reducing_attention"]

_ATTENTION = re.compile(r"(Attn|Attention)(\dd)?$")

#: Layers of timm's attention classes whose stride is that of the block's output, by the name of the attribute.
MAIN_PATH = {
    "BottleneckAttn": {"pool"},  # averages the attention's output
    "HaloAttn": {"pool", "q"},  # likewise, or queries at the output's grid
    "MultiScaleAttention": {"pool_q", "q_pool"},  # the shortcut beside it is pooled alike
    "SplitAttn": {"conv"},  # the convolution that is split
}


def reducing_attention(model: nn.Module, name: str) -> str:
    """The attention that a strided layer reduces keys, values or a gate for.

    Args:
        model: The network.
        name: The layer's name in it.

    Returns:
        Class name of that attention; empty where the layer is on the main path.
    """
    path = name.split(".")
    for depth in range(len(path) - 1, 0, -1):
        owner = type(model.get_submodule(".".join(path[:depth]))).__name__
        if _ATTENTION.search(owner):
            return "" if path[depth] in MAIN_PATH.get(owner, ()) else owner
    return ""
