"""Whole networks: inference and a training step of each twin, against the plain network.

    python -m benchmarks.networks [--device cuda] [--dtype bfloat16] [--compile] [--batch-size 128] [--network resnet50]

Besides the plain network and its twin: `blur`, BlurPool's binomial filter at the same layers as the twin's operators;
and `released`, the released FFT pooling where the paper's layout puts it, before strided convolutions, which run at
stride 1, and in place of max-pools. On a CPU the measure is the time of the process on one thread, which other programs
on the machine disturb less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import gc
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import timm
import torch
import torch.nn.functional as F
from torch import nn

import timm_asap  # noqa: F401  registers the twins
from benchmarks import common
from timm_asap import reparameterize
from timm_asap.conversion import filtering
from timm_asap.ops.reference import released_pool2d

NETWORKS = (
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobileone_s0",
    "mobileone_s0, fused",
    "regnety_008",
    "repvit_m0_9",
    "fastvit_t8",
    "densenet121",
    "hrnet_w18_small",
)
CONTENDERS = ("plain", "asap", "blur", "released")
#: Plain networks whose training step ends the process in PyTorch 2.14.1 on a CPU ("double free or corruption"), by
#: memory format: the gradient of the weights of a 1x1 convolution of stride 2 on the 3 channels of an image, 3 to 48 at
#: 224 x 224. The twins, which pool first, run.
CRASHES = {("mobileone_s0", "channels_last"), ("fastvit_t8", "channels_last")}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}

Operator = Callable[[torch.Tensor, str, tuple[int, ...], str, str], torch.Tensor]


@cache
def _binomial(channels: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    row = torch.tensor([1.0, 2.0, 1.0], dtype=dtype, device=device) / 4
    return (row[:, None] * row).expand(channels, 1, 3, 3).contiguous()


def blur(x: torch.Tensor, kind: str, stride: tuple[int, ...], window: str, boundary: str) -> torch.Tensor:
    """BlurPool's filter of three taps as timm's `BlurPool2d` applies it; a low-pass keeps the size."""
    if min(x.shape[-2:]) < 2:
        return x
    step = stride if kind == "pool" else (1, 1)
    kernel = _binomial(x.shape[1], x.dtype, x.device)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), kernel, stride=step, groups=x.shape[1])


def released(x: torch.Tensor, kind: str, stride: tuple[int, ...], window: str, boundary: str) -> torch.Tensor:
    """The released pooling; only the paper's layout has nothing but pools of stride 2."""
    if kind != "pool" or set(stride) != {2}:
        raise NotImplementedError(f"the released code has no {kind} of stride {stride}")
    return released_pool2d(x, "asap")


@contextmanager
def operator(function: Operator | None) -> Iterator[None]:
    """Run converted networks with another operator in place of ours."""
    ours = filtering._resample
    filtering._resample = function or ours
    try:
        yield
    finally:
        filtering._resample = ours


def build(network: str, contender: str) -> nn.Module:
    """One contender of a network."""
    name, _, fused = network.partition(", ")
    layout = {"asap_layout": "paper"} if contender == "released" else {}
    model = timm.create_model(name if contender == "plain" else f"{name}_asap", **layout)
    return reparameterize(model.eval()) if fused else model


class _Work:
    """Inference and a training step of one contender."""

    def __init__(self, network: str, contender: str, memory_format: str, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.args = args
        self.operator = {"blur": blur, "released": released}.get(contender)
        order = FORMATS[memory_format]
        self.model = build(network, contender).to(args.device, memory_format=order)
        size = (args.batch_size, 3, args.image_size, args.image_size)
        self.images = torch.randn(size, device=args.device).contiguous(memory_format=order)
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
