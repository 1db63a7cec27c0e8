"""`torch.ao.quantization.fuse_modules` on converted convolutions: it looks them up by their exact class."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

__all__ = ["register_fusion"]

_NORMS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}
_TRANSPOSED = {
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
}


def register_fusion(made: type[nn.Module], plain: type[nn.Module]) -> None:
    """Let PyTorch's eager-mode fusion know the class of a converted convolution.

    A batch norm is folded into the weights, which the low-pass before them does not touch. Fusion for training, whose
    layers are built anew by exact class, and a low-pass after the layer, are refused by name.

    Args:
        made: The class of the converted layer.
        plain: The class before.
    """
    if plain not in _NORMS and plain not in _TRANSPOSED:
        return
    try:
        from torch.ao.quantization import fuser_method_mappings
    except ImportError:
        return
    methods = getattr(fuser_method_mappings, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", None)
    if methods is None:  # a PyTorch without eager-mode fusion, or with another one
        return
    if plain in _TRANSPOSED:
        methods[(made, _TRANSPOSED[plain])] = _refuse(made, "fold the batch norm before convert(upsampling=True)")
        return
    methods[(made, _NORMS[plain])] = _fold
    methods[(made, _NORMS[plain], nn.ReLU)] = _fold
    methods[(made, nn.ReLU)] = _fold


def _fold(is_qat: bool, conv: nn.modules.conv._ConvNd, *following: nn.Module) -> nn.Module:
    norms = [layer for layer in following if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if is_qat or (norms and conv.training):
        raise TypeError(
            f"{type(conv).__name__}: fusion for training builds the convolution anew and would lose the alias-free "
            "filter; call eval() before fuse_modules, or fuse first and convert then"
        )
    fused = nn.utils.fuse_conv_bn_eval(conv, norms[0]) if norms else conv
    rest = following[len(norms) :]
    return nn.Sequential(fused, *rest) if rest else fused


def _refuse(made: type[nn.Module], instead: str) -> Callable:
    def refuse(is_qat: bool, *layers: nn.Module) -> nn.Module:
        raise TypeError(f"{made.__name__} cannot be fused: its low-pass comes after the layer; {instead}")

    return refuse
