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
        with operator(self.operator):
            self._logits()

    def training_step(self) -> None:
        self.model.train()
        with operator(self.operator):
            F.cross_entropy(self._logits().float(), self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _runs(work: _Work) -> str:
    """Why a contender cannot be measured; empty where it can."""
    try:
        work.inference()
    except (NotImplementedError, RuntimeError) as e:  # what the released code has not, or what does not fit together
        return f"{type(e).__name__}: {e}"
    return ""


def measure(network: str, memory_format: str, args: argparse.Namespace) -> list[dict]:
    """Both tables of a network in a memory format."""
    # The released pooling has no half precision (complex numbers come in float32 and float64), and is not compiled.
    names = [n for n in CONTENDERS if (args.dtype == torch.float32 and not args.compile) or n != "released"]
    work = {name: _Work(network, name, memory_format, args) for name in names}
    failed = {name: reason for name in names if (reason := _runs(work[name]))}
    tables = []
    for call, rounds in (("inference", args.rounds), ("training_step", args.training_rounds)):
        untrained = ", fused" in network or (network, memory_format) in CRASHES
        if not rounds or (call == "training_step" and untrained):
            continue
        chosen = [n for n in names if n not in failed and (n != "released" or call == "inference" or args.all)]
        calls = {name: getattr(work[name], call) for name in chosen}
        timings = common.interleave(calls, "plain", args.device, rounds, warm_up=args.warm_up, clock=args.clock)
        rows = common.as_json(timings)
        for name in chosen:
            rows[name]["peak_mib"] = round(common.peak_of(calls[name], args.device), 1)
        common.print_table(f"{network}: {call.replace('_', ' ')}, {memory_format}", "plain", rows)
        table = {"family": network, "call": call, "memory_format": memory_format, "yardstick": "plain"}
        tables.append({**table, "failed": failed, "rows": rows})
    return tables


def _tables_before(name: str, device: torch.device, record: dict) -> list[dict]:
    """What a record of the same settings, device and versions holds."""
    before = json.loads(common.path_of(name, device).read_text())
    now = json.loads(json.dumps({"environment": common.environment(device), **record}))
    for key in now:
        if key != "tables" and before.get(key) != now[key]:
            raise SystemExit(f"--add: {key} was {before.get(key)!r}, got {now[key]!r}")
    return before["tables"]


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32", type=lambda name: getattr(torch, name))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--format", choices=list(FORMATS), action="append")
    parser.add_argument("--batch-size", default=4, type=int)
    parser.add_argument("--image-size", default=224, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--training-rounds", default=3, type=int)
    parser.add_argument("--warm-up", default=1, type=int)
    parser.add_argument("--all", action="store_true", help="training steps of the released code too")
    parser.add_argument("--add", action="store_true", help="keep what the record holds of other networks and formats")
    parser.add_argument("--network", choices=NETWORKS, action="append")
    args = parser.parse_args()
    args.clock = "cpu" if args.device.type == "cpu" else "wall"
    warnings.simplefilter("ignore", UserWarning)

    dtype = str(args.dtype).removeprefix("torch.")
    record = {
        "dtype": dtype,
        "mode": "compiled" if args.compile else "eager",
        "clock": args.clock,
        "batch_size": args.batch_size,
        "image_size": args.image_size,
        "rounds": args.rounds,
        "training_rounds": args.training_rounds,
        "tables": [],
    }
    name = f"networks.{dtype}.{record['mode']}"
    if args.add:
        record["tables"] = _tables_before(name, args.device, record)
    for network in args.network or NETWORKS:
        for memory_format in args.format or FORMATS:
            here = (network, memory_format)
            others = [table for table in record["tables"] if (table["family"], table["memory_format"]) != here]
            record["tables"] = others + measure(network, memory_format, args)
            gc.collect()
            # after each network: what is measured so far is kept if the rest is not
            path = common.store(name, args.device, record)
    print(path)


if __name__ == "__main__":
    main()
