"""The released operators, by FFT: oracle, yardstick, and what reproduces the paper's numbers.

Written from the definition of the authors' released code (GeJulia/flc_pooling, revision 983b2b5, MIT), faults
included; use `timm_asap.asap_pool2d` for everything but reproduction. The faults that are kept here:

- the crop takes the frequencies `int(n / 4)` to `int(3 n / 4)` of the shifted spectrum. Where n is 2 mod 4 that puts
  zero frequency one bin off the middle, and a constant map of 14 x 14 comes out as a wave of mean zero;
- the window of an even size is centered half a bin off zero frequency;
- one of the two frequencies at the cut is kept and its partner is not, so the result has an imaginary part, dropped;
- `asap_padding_one` appends one row and column of zeros: 14 x 14 becomes 8 x 8, and constants sag at that border.

Left out on purpose: the released `ASAP` returns height and width swapped by default (`transpose=True`) and keeps the
window of the first size it sees; neither is part of the definition.
"""

from __future__ import annotations

from enum import Enum

import torch
import torch.nn.functional as F
from torch import nn

from timm_asap.errors import unknown_name

__all__ = ["ReleasedPool2d", "released_pool2d"]


class Variant(str, Enum):
    """The four poolings of the released code."""

    FLC = "flc"
    ASAP = "asap"
    ASAP_PADDING_ONE = "asap_padding_one"
    ASAP_PADDING_LARGE = "asap_padding_large"


def _root_hamming(n: int, x: torch.Tensor) -> torch.Tensor:
    """Root of the symmetric n-point Hamming window, in the real dtype and on the device of `x`."""
    return torch.hamming_window(n, periodic=False, dtype=x.dtype, device=x.device).abs().sqrt()


def _central_half(n: int) -> slice:
    return slice(int(n / 4), int(n / 4 * 3))


def released_pool2d(x: torch.Tensor, variant: str = "asap") -> torch.Tensor:
    """Halve height and width as the authors' released code does, faults included.

    The spectrum is shifted, weighted (but for `"flc"`), cropped to its central half and transformed back;
    `"asap_padding_one"` first appends one zero row and column, `"asap_padding_large"` surrounds the map with zeros
    to about twice its size and crops the middle afterwards.

    Args:
        x: Floating-point tensor. FFTs exist in float32 and float64 on every device; half precision works on CUDA
            for powers of two alone.
        variant: `"flc"`, `"asap"`, `"asap_padding_one"` or `"asap_padding_large"`.

    Shape:
        (B, C, H, W) to (B, C, int(3 H / 4) - int(H / 4), int(3 W / 4) - int(W / 4)) for `"flc"` and `"asap"`, which is
        H / 2 for even H; one more row and column where H is even and W is even for `"asap_padding_one"`'s 2 mod 4.

    Returns:
        Tensor of the dtype of `x`.

    Raises:
        ValueError: Unknown variant.

    Reference:
        Grabinski, Keuper & Keuper, arXiv 2307.09804; Grabinski et al., "FrequencyLowCut Pooling", arXiv 2204.00491.

    Examples:
        >>> constant = torch.ones(1, 1, 14, 14)
        >>> released_pool2d(constant, "flc").mean().abs().item() < 1e-6  # the misplaced crop: no mean is left
        True
    """
    try:
        variant = Variant(variant)
    except ValueError:
        raise ValueError(unknown_name("variant", variant, [v.value for v in Variant])) from None
    height, width = x.shape[-2:]
    if variant is Variant.ASAP_PADDING_ONE:
        x = F.pad(x, (0, 1, 0, 1))
    elif variant is Variant.ASAP_PADDING_LARGE:
        x = F.pad(x, (int(width / 2 - 1), int(width / 2), int(height / 2 - 1), int(height / 2)))
    rows, columns = x.shape[-2:]
    x_freq = torch.fft.fftshift(torch.fft.fft2(x, norm="forward"), dim=(-2, -1))
    if variant is not Variant.FLC:
        x_freq = x_freq * _root_hamming(rows, x)[:, None] * _root_hamming(columns, x)
    x_freq = x_freq[..., _central_half(rows), _central_half(columns)]
    y = torch.fft.ifft2(torch.fft.ifftshift(x_freq, dim=(-2, -1)), norm="forward").real
    if variant is Variant.ASAP_PADDING_LARGE:
        y = y[..., _central_half(y.shape[-2]), _central_half(y.shape[-1])]
    return y


class ReleasedPool2d(nn.Module):
    """`released_pool2d` as a layer, for networks that reproduce the paper and for benchmarks.

    Args:
        variant: `"flc"`, `"asap"`, `"asap_padding_one"` or `"asap_padding_large"`.
    """

    def __init__(self, variant: str = "asap") -> None:
        super().__init__()
        self.variant = Variant(variant).value

    def extra_repr(self) -> str:
        """The variant."""
        return f"variant={self.variant!r}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool (B, C, H, W) to about (B, C, H / 2, W / 2)."""
        return released_pool2d(x, self.variant)
