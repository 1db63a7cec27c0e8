"""Ridge least squares for a convolution: its inputs as the rows of a linear system, one for each output position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from timm_asap.conversion.filtering import whole_batches

__all__ = ["ConvCall", "ConvCalls", "ResidualFit", "output_positions", "rows_of"]


class ResidualFit:
    """Sums from which the correction of a linear layer, per group, follows in closed form.

    For rows `x` of its input and the residual `r = target - output` there, the correction `D` minimizes
    `|r - x D|^2 + lam |D|^2`: it fits what is missing and stays close to the weights the layer has, also in
    directions that its input never takes. Memory does not grow with the number of rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        # of no group, input or output until there are rows
        self.gram = torch.zeros(0, 0, 0, dtype=torch.float64)
        self.cross = torch.zeros(0, 0, 0, dtype=torch.float64)
        self.residual_energy = 0.0
        self.target_energy = 0.0

    def add(self, x: torch.Tensor, residual: torch.Tensor, target: torch.Tensor) -> None:
        """Add rows.

        Args:
            x: (groups, rows, inputs), float32 or float64.
            residual: (groups, rows, outputs).
            target: Likewise.
        """
        gram, cross = x.mT @ x, x.mT @ residual
        if not self.rows:
            # Not every accelerator has float64; sums over many batches need it, the product of one does not.
            device = "cpu" if x.device.type == "mps" else x.device
            self.gram = torch.zeros(gram.shape, dtype=torch.float64, device=device)
            self.cross = torch.zeros(cross.shape, dtype=torch.float64, device=device)
        self.gram += gram.to(self.gram.device)
        self.cross += cross.to(self.gram.device)
        self.residual_energy += _energy(residual)
        self.target_energy += _energy(target)
        self.rows += x.shape[1]

    def solve(self, ridge: float, free: int = 0) -> torch.Tensor:
        """The correction (groups, inputs, outputs), float64.

        Args:
            ridge: `lam` as a share of the mean diagonal entry of the Gram matrix; raised tenfold, as often as need be,
                where rounding leaves a system without a solution.
            free: The last inputs that are not penalised; a column of ones, for a bias.
        """
        inputs = self.gram.shape[-1] - free
        diagonal = self.gram.diagonal(dim1=-2, dim2=-1)
        lam = ridge * diagonal[:, :inputs].mean(dim=-1, keepdim=True)
        # A group whose input is all zeros has nothing to correct; its system must be solvable nevertheless.
        penalty = torch.where(lam > 0, lam, 1.0).expand(-1, inputs)
        penalty = torch.cat([penalty, torch.zeros_like(diagonal[:, inputs:])], dim=1)
        factor, failed = torch.linalg.cholesky_ex(self.gram + torch.diag_embed(penalty))
        if failed.any():
            return self.solve(10 * ridge, free)
        return torch.cholesky_solve(self.cross, factor)

    def relative_error(self, correction: torch.Tensor | None = None) -> float:
        """`|residual - x correction| / |target|` over the rows added; without a correction, `|residual| / |target|`."""
        energy = self.residual_energy
        if correction is not None:
            moved = correction.to(self.gram.device)
            energy -= 2 * (moved * self.cross).sum().item()
            energy += (moved * (self.gram @ moved)).sum().item()
        if self.target_energy == 0:
            return 0.0 if energy <= 0 else float("inf")
        return (max(energy, 0.0) / self.target_energy) ** 0.5


def _energy(x: torch.Tensor) -> float:
    return x.square().sum(dim=(-2, -1)).cpu().double().sum().item()


# Entries of the rows that are held at a time: 64 MB in float32.
_ENTRIES = 2**24

_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class ConvCall:
    """One call of `torch.nn.functional.conv2d`.

    Attributes:
        input: (B, C, H, W), after whatever filtering and padding the layer does before it convolves.
        weight: (O, C / groups, kernel height, kernel width), the very tensor that was passed.
        stride: (height, width).
        padding: Zeros before and after each axis: ((top, bottom), (left, right)).
        dilation: (height, width).
        groups: Number of groups.
        output: (B, O, H', W').
    """

    input: torch.Tensor
    weight: torch.Tensor
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int
    output: torch.Tensor


class ConvCalls(TorchFunctionMode):
    """Shows every 2-D convolution that runs within it, whatever layer calls it.

    The call is what counts, not the layer: 'same' padding, pooling before the convolution or a standardized weight
    are all done by then.

    Args:
        look: Gets each call, after it was made; where it returns True, the call is made again, for it has changed the
            weight.
    """

    def __init__(self, look: Callable[[ConvCall], bool | None]) -> None:
        super().__init__()
        self.look = look
        self._whole_batches = ExitStack()

    def __enter__(self) -> ConvCalls:
        self._whole_batches.enter_context(whole_batches())
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._whole_batches.close()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.conv2d:
            given: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
            given |= dict(zip(_NAMES, args, strict=False)) | (kwargs or {})
            kernel, dilation = given["weight"].shape[2:], _pair(given["dilation"])
            changed = self.look(
                ConvCall(
                    input=given["input"],
                    weight=given["weight"],
                    stride=_pair(given["stride"]),
                    padding=_padding(given["padding"], kernel, dilation),
                    dilation=dilation,
                    groups=given["groups"],
                    output=output,
                )
            )
            if changed:
                output = func(*args, **(kwargs or {}))
        return output


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _padding(
    padding: str | int | tuple[int, ...], kernel: Sequence[int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    if padding == "valid":
        return ((0, 0), (0, 0))
    if isinstance(padding, str):  # "same"
        down, right = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return (down // 2, down - down // 2), (right // 2, right - right // 2)
    height, width = _pair(padding)
    return (height, height), (width, width)


def output_positions(output: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Indices of up to `count` positions of an output (B, O, H, W), each once, at random: int64, on the CPU."""
    size = output.shape[2] * output.shape[3]
    if size <= count:
        return torch.arange(size)
    return torch.randperm(size, generator=generator)[:count]


def rows_of(
    call: ConvCall, target: torch.Tensor, images: torch.Tensor, where: torch.Tensor, ones: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Inputs, residuals and targets of a convolution at some positions of some images, in bounded portions.

    Args:
        call: The convolution.
        target: (B, O, positions), what its output should be at these positions.
        images: Indices into the batch.
        where: Indices into the flattened output positions.
        ones: Add a column of ones to the inputs, for a bias.

    Yields:
        (groups, rows, inputs), (groups, rows, outputs) and (groups, rows, outputs), float32 (float64 where the
        input is): the order of inputs and outputs is that of the weight.
    """
    (top, bottom), (left, right) = call.padding
    width_out = call.output.shape[3]
    device = call.input.device
    row_start = (where // width_out * call.stride[0]).to(device)
    column_start = (where % width_out * call.stride[1]).to(device)
    kernel = call.weight.shape[2:]
    # (positions, kernel height, 1) and (positions, 1, kernel width)
    rows = row_start[:, None, None] + (torch.arange(kernel[0], device=device) * call.dilation[0])[None, :, None]
    columns = column_start[:, None, None] + (torch.arange(kernel[1], device=device) * call.dilation[1])[None, None, :]
    entries = len(where) * call.input.shape[1] * kernel.numel()
    for chosen in images.split(max(1, _ENTRIES // entries)):
        chosen = chosen.to(device)
        x = F.pad(_at_least_float32(call.input[chosen]), (left, right, top, bottom))[:, :, rows, columns]
        # (images, channels, positions, kernel height, kernel width) to one row for each image and position
        x = x.transpose(1, 2).reshape(len(chosen) * len(where), call.groups, -1).transpose(0, 1)
        x = F.pad(x, (0, 1), value=1.0) if ones else x
        wanted = _outputs(target[chosen], call.groups)
        found = _outputs(call.output[chosen].flatten(2)[:, :, where.to(device)], call.groups)
        yield x, wanted - found, wanted


def _outputs(y: torch.Tensor, groups: int) -> torch.Tensor:
    """(images, O, positions) as (groups, rows, O / groups)."""
    y = _at_least_float32(y)
    return y.transpose(1, 2).reshape(-1, groups, y.shape[1] // groups).transpose(0, 1)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
