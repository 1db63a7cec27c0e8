"""What a depthwise convolution of stride 2 costs in other forms than low-pass, then convolution: the ones not taken.

    python -m benchmarks.depthwise [--rounds 5] [--batch-size 8]

- `conv, pool`: the convolution at stride 1, then the pool. Equal to the definition but at the borders.
- `conv, pool, borders`: the same, its first and last rows and columns computed by the definition: equal.
- `half rank`: the low-pass through the frequencies that it keeps, 1.5 n^3 multiply-adds a map in place of 2 n^3.
- `halves`: the low-pass of sums and differences of halves of an axis, n^3.
- `fourier`: the low-pass by a Fourier transform.
- `whole`: as it is, without dividing large batches.

CPU time of the process on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import common
from benchmarks.networks import FORMATS
from timm_asap import asap_pool2d, convert
from timm_asap.conversion import filtering
from timm_asap.ops import resample
from timm_asap.ops.spectral import lowpass_matrix

#: (channels, size, kernel size): the two large layers of EfficientNet-B0.
SITES = ((96, 112, 3), (144, 56, 5))


def both_axes(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """`rows x columns^T`, in the memory format of x."""
    if x.stride(1) != 1:
        return torch.matmul(rows, torch.matmul(x, columns.T))
    batch, channels, height, width = x.shape
    y = torch.matmul(rows, x.permute(0, 2, 3, 1).reshape(batch, height, width * channels))
    return torch.matmul(columns, y.view(batch, len(rows), width, channels)).permute(0, 3, 1, 2)


class Forms:
    """Every form of one layer, as functions of its input; the kernel is odd and the size even."""

    def __init__(self, channels: int, size: int, kernel: int, memory_format: torch.memory_format) -> None:
        self.plain = nn.Conv2d(channels, channels, kernel, 2, kernel // 2, groups=channels, bias=False)
        self.plain.to(memory_format=memory_format)
        self.twin = nn.Conv2d(channels, channels, kernel, 2, kernel // 2, groups=channels, bias=False)
        self.twin.to(memory_format=memory_format).load_state_dict(self.plain.state_dict())
        convert(self.twin)
        self.channels, self.kernel, self.padding = channels, kernel, kernel // 2
        lowpass = lowpass_matrix(size)
        self.lowpass = lowpass.float()
        # Outputs from `first` to before `end` read no padding; a convolution padded by all of its kernel wraps around.
        self.first, self.end = -(-self.padding // 2), (size + self.padding - kernel) // 2 + 1
        wrapped = (torch.arange(size + kernel - 1) - self.padding) % size
        self.inner = lowpass[::2][self.first : self.end][:, wrapped].float()
        values, vectors = torch.linalg.eigh(lowpass)
        kept = values > 1e-9
        self.down, self.up = vectors[:, kept].T.float(), (vectors[:, kept] * values[kept]).float()
        top, beside = lowpass[: size // 2].split(size // 2, 1)
        self.sums, self.differences = ((top + beside) / 2).float(), ((top - beside) / 2).float()

    def _conv(self, x: torch.Tensor, stride: int, padding: int | tuple[int, int]) -> torch.Tensor:
        return F.conv2d(x, self.plain.weight, None, stride, padding, 1, self.channels)

    def conv_pool(self, x: torch.Tensor) -> torch.Tensor:
        return asap_pool2d(self._conv(x, 1, self.padding))

    def conv_pool_borders(self, x: torch.Tensor) -> torch.Tensor:
        y = both_axes(self._conv(x, 1, self.kernel - 1), self.inner, self.inner)
        size, outputs = x.shape[-1], x.shape[-1] // 2
        strips = [(0, 2 * (self.first - 1) - self.padding + self.kernel, (self.padding, 0))]
        if outputs > self.end:
            last = 2 * (outputs - 1) - self.padding + self.kernel
            strips.append((2 * self.end - self.padding, size, (0, last - size)))
        rows, columns = [], []
        for begin, stop, pad in strips:
            part = self.lowpass[begin:stop]
            row = F.pad(both_axes(x, part, self.lowpass), (0, 0, *pad))
            rows.append(self._conv(row, 2, (0, self.padding)))
            column = self._conv(F.pad(both_axes(x, self.lowpass, part), pad), 2, (self.padding, 0))
            columns.append(column[:, :, self.first : self.end])
        middle = torch.cat([columns[0], y, *columns[1:]], 3)
        return torch.cat([rows[0], middle, *rows[1:]], 2)

    def half_rank(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv(both_axes(both_axes(x, self.down, self.down), self.up, self.up), 2, self.padding)

    def halves(self, x: torch.Tensor) -> torch.Tensor:
        for dim in (2, 3):
            first, second = x.chunk(2, dim)
            mean = _one_axis(first + second, self.sums, dim)
            difference = _one_axis(first - second, self.differences, dim)
            x = torch.cat([mean + difference, mean - difference], dim)
        return self._conv(x, 2, self.padding)

    def fourier(self, x: torch.Tensor) -> torch.Tensor:
        large, resample._LARGE_AXIS = resample._LARGE_AXIS, 1
        try:
            return self.twin(x)
        finally:
            resample._LARGE_AXIS = large

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        large, filtering._LARGE = filtering._LARGE, 2**60
        try:
            return self.twin(x)
        finally:
            filtering._LARGE = large

    def forms(self) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """Every form by name, the yardstick first."""
        return {
            "twin": self.twin,
            "plain": self.plain,
            "whole": self.whole,
            "conv, pool": self.conv_pool,
            "conv, pool, borders": self.conv_pool_borders,
            "half rank": self.half_rank,
            "halves": self.halves,
            "fourier": self.fourier,
        }


def _one_axis(x: torch.Tensor, matrix: torch.Tensor, dim: int) -> torch.Tensor:
    if x.stride(1) != 1:
        return torch.matmul(matrix, x) if dim == 2 else torch.matmul(x, matrix.T)
    z = x.permute(0, 2, 3, 1)
    y = torch.matmul(matrix, z.flatten(2)).view(z.shape) if dim == 2 else torch.matmul(matrix, z)
    return y.permute(0, 3, 1, 2)


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--batch-size", default=8, type=int)
    args = parser.parse_args()
    device = torch.device("cpu")
    torch.manual_seed(0)
    record = {"dtype": "float32", "batch_size": args.batch_size, "rounds": args.rounds, "clock": "cpu", "tables": []}
    for channels, size, kernel in SITES:
        for memory_format, order in FORMATS.items():
            forms = Forms(channels, size, kernel, order)
            x = torch.randn(args.batch_size, channels, size, size).contiguous(memory_format=order).requires_grad_()
            expected = forms.twin(x).detach()
            for call in ("forward", "forward_backward"):
                calls = {}
                for name, form in forms.forms().items():
                    if name not in ("plain", "conv, pool"):
                        torch.testing.assert_close(form(x).detach(), expected, atol=1e-4, rtol=1e-4)
                    calls[name] = _call(form, x, call == "forward_backward")
                rows = common.as_json(common.interleave(calls, "twin", device, args.rounds, warm_up=1, clock="cpu"))
                table = {"channels": channels, "size": size, "kernel": kernel, "memory_format": memory_format}
                record["tables"].append({**table, "call": call, "yardstick": "twin", "rows": rows})
                common.print_table(f"{channels} x {size} x {size}, {memory_format}, {call}", "twin", rows)
    print(common.store("depthwise", device, record))


def _call(form: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, with_gradient: bool) -> Callable[[], None]:
    def forward_backward() -> None:
        form(x).sum().backward()

    return forward_backward if with_gradient else lambda: torch.no_grad()(form)(x)


if __name__ == "__main__":
    main()
