"""Downsampling layers by themselves: ours, the released FFT pooling, and what PyTorch and timm offer.

    python -m benchmarks.pooling [--device cuda] [--dtype bfloat16] [--rounds 15]

Times are of all shapes of a group together: the five maps that ResNet-50 downsamples at 224 x 224, and the two of a
network for 32 x 32 images. Every contender halves the maps, but for the low-passes, which keep them, and the copy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import BlurPool2d
from torch import nn

from benchmarks import common
from timm_asap import AsapPool2d, LowPass2d, convert
from timm_asap.ops.reference import ReleasedPool2d

#: (channels, size) of the maps.
GROUPS = {
    "ResNet-50 at 224": ((3, 224), (64, 112), (128, 56), (256, 28), (512, 14)),
    "ResNet-20 at 32": ((16, 32), (32, 16)),
}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
YARDSTICK = "blur"


def contenders(channels: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Every way to downsample maps of that many channels, by name."""
    max_then_pool = nn.MaxPool2d(3, 2, 1)
    convert(max_then_pool)
    return {
        "copy (memory floor)": torch.clone,
        "avg_pool2d": partial(F.avg_pool2d, kernel_size=2),
        "max_pool2d": partial(F.max_pool2d, kernel_size=3, stride=2, padding=1),
        "blur": BlurPool2d(channels),
        "released FFT": ReleasedPool2d("asap"),
        "ours: pool": AsapPool2d(),
        "ours: pool, reflect": AsapPool2d(boundary="reflect"),
        "ours: pool, zero": AsapPool2d(boundary="zero"),
        "ours: low-pass": LowPass2d(),
        "ours: low-pass, reflect": LowPass2d(boundary="reflect"),
        "ours: low-pass, zero": LowPass2d(boundary="zero"),
        "ours: max, then pool": max_then_pool,
    }


class _Group:
    """One contender on all maps of a group."""

    def __init__(self, name: str, group: str, memory_format: str, args: argparse.Namespace) -> None:
        dtype = getattr(torch, args.dtype)
        self.work = []
        for channels, size in GROUPS[group]:
            layer = contenders(channels)[name]
            if isinstance(layer, nn.Module):
                layer = layer.to(args.device, dtype)
            x = torch.randn(args.batch_size, channels, size, size, device=args.device).to(dtype)
            self.work.append((layer, x.contiguous(memory_format=FORMATS[memory_format]).requires_grad_()))
        self.grads = [torch.ones_like(layer(x)) for layer, x in self.work]

    @torch.no_grad()
    def forward(self) -> None:
        for layer, x in self.work:
            layer(x)

    def forward_backward(self) -> None:
        for (layer, x), grad in zip(self.work, self.grads, strict=True):
            torch.autograd.grad(layer(x), x, grad)


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", default=8, type=int)
    parser.add_argument("--rounds", default=15, type=int)
    args = parser.parse_args()

    record = {"dtype": args.dtype, "batch_size": args.batch_size, "rounds": args.rounds, "tables": []}
    # cuFFT takes no bfloat16, and float16 for powers of two alone.
    names = [n for n in contenders(1) if args.dtype == "float32" or n != "released FFT"]
    for group in GROUPS:
        for memory_format in FORMATS:
            groups = {name: _Group(name, group, memory_format, args) for name in names}
            for call in ("forward", "forward_backward"):
                calls = {name: getattr(work, call) for name, work in groups.items()}
                rows = common.as_json(common.interleave(calls, YARDSTICK, args.device, args.rounds))
                for name in names:
                    rows[name]["peak_mib"] = round(common.peak_of(calls[name], args.device), 1)
                title = f"{group}, {memory_format}, {call.replace('_', ' + ')}, {args.dtype}, batch {args.batch_size}"
                common.print_table(title, YARDSTICK, rows)
                table = {"group": group, "memory_format": memory_format, "call": call, "yardstick": YARDSTICK}
                record["tables"].append({**table, "rows": rows})
    name = "pooling" if args.dtype == "float32" else f"pooling.{args.dtype}"
    print(common.store(name, args.device, record))


if __name__ == "__main__":
    main()
