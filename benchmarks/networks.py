"""Whole networks: inference and a training step of each, against the plain network.

    python -m benchmarks.networks [--device cuda] [--dtype bfloat16] [--compile] [--batch-size 128] [--rounds 7]

`resnet50 + released` is resnet50 with the released FFT pooling where the paper's layout puts it: before its strided
convolutions, which run at stride 1, and in place of its max-pool.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import nn

import timm_asap
from benchmarks import common
from timm_asap.conversion.strided import AsapLayer
from timm_asap.ops.reference import ReleasedPool2d

YARDSTICKS = {"resnet50": "resnet50", "convnext_tiny": "convnext_tiny"}


def _released(**kwargs: object) -> nn.Module:
    model = timm.create_model("resnet50")
    timm_asap.convert(model, layout="paper")
    pool = ReleasedPool2d("asap")
    for layer in model.modules():
        if isinstance(layer, AsapLayer):
            layer._pool_to_plain_size = pool.forward  # every map of ResNet-50 at 224 x 224 is even
    return model


FAMILIES: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "resnet50": {
        "resnet50": lambda: timm.create_model("resnet50"),
        "resnet50_asap": lambda: timm.create_model("resnet50_asap"),
        "resnet50_asap, paper": lambda: timm.create_model("resnet50_asap", asap_layout="paper"),
        "resnetblur50": lambda: timm.create_model("resnetblur50"),
        "resnetaa50": lambda: timm.create_model("resnetaa50"),
        "resnet50 + released": _released,
    },
    "convnext_tiny": {
        "convnext_tiny": lambda: timm.create_model("convnext_tiny"),
        "convnext_tiny_asap": lambda: timm.create_model("convnext_tiny_asap"),
        "convnext_tiny_asap, paper": lambda: timm.create_model("convnext_tiny_asap", asap_layout="paper"),
    },
}


class _Work:
    """Inference and a training step of one network."""

    def __init__(self, build: Callable[[], nn.Module], args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.args = args
        memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
        self.model = build().to(args.device, memory_format=memory_format)
        size = (args.batch_size, 3, args.image_size, args.image_size)
        self.images = torch.randn(size, device=args.device).contiguous(memory_format=memory_format)
        self.labels = torch.randint(1000, (args.batch_size,), device=args.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.run = torch.compile(self.model) if args.compile else self.model

    def _logits(self) -> torch.Tensor:
        with torch.autocast(self.args.device.type, dtype=self.args.dtype, enabled=self.args.dtype != torch.float32):
            return self.run(self.images)

    @torch.no_grad()
    def inference(self) -> None:
        self.model.eval()
        self._logits()

    def training_step(self) -> None:
        self.model.train()
        F.cross_entropy(self._logits().float(), self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32", type=lambda name: getattr(torch, name))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--batch-size", default=8, type=int)
    parser.add_argument("--image-size", default=224, type=int)
    parser.add_argument("--rounds", default=7, type=int)
    parser.add_argument("--family", choices=list(FAMILIES), action="append")
    args = parser.parse_args()

    dtype = str(args.dtype).removeprefix("torch.")
    setting = [dtype, "channels_last" if args.channels_last else "NCHW", "compiled" if args.compile else "eager"]
    record = {
        "dtype": dtype,
        "memory_format": setting[1],
        "mode": setting[2],
        "batch_size": args.batch_size,
        "image_size": args.image_size,
        "rounds": args.rounds,
        "tables": [],
    }
    for family in args.family or FAMILIES:
        # The released pooling has no half precision: complex numbers come in float32 and float64.
        names = [n for n in FAMILIES[family] if args.dtype == torch.float32 or "released" not in n]
        work = {name: _Work(FAMILIES[family][name], args) for name in names}
        for call in ("inference", "training_step"):
            calls = {name: getattr(w, call) for name, w in work.items()}
            rows = common.as_json(common.interleave(calls, YARDSTICKS[family], args.device, args.rounds, warm_up=1))
            for name in names:
                rows[name]["peak_mib"] = round(common.peak_of(calls[name], args.device), 1)
            title = f"{call.replace('_', ' ')}, {', '.join(setting)}, batch {args.batch_size}"
            common.print_table(title, YARDSTICKS[family], rows)
            record["tables"].append({"family": family, "call": call, "yardstick": YARDSTICKS[family], "rows": rows})
    print(common.store(".".join(["networks", *setting]), args.device, record))


if __name__ == "__main__":
    main()
