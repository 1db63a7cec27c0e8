"""Cost against the size of the input: the operator by itself, and networks beside their twins, from 96 to 1024 pixels.

    python -m benchmarks.scale [--rounds 3]

On a CPU, batch 1, in the time of the process on one thread. `fourier` is the low-pass as it runs on large maps.
"""

from __future__ import annotations

import argparse
from functools import partial

import timm
import torch

import timm_asap  # noqa: F401  registers the twins
from benchmarks import common
from timm_asap import asap_pool2d, lowpass2d
from timm_asap.ops import resample

SIZES = (96, 128, 160, 192, 224, 256, 384, 512, 768, 1024)
NETWORKS = {
    "resnet18": (96, 160, 224, 384, 512, 768, 1024),
    "mobilenetv3_large_100": (96, 160, 224, 384, 512, 768, 1024),
}
CHANNELS = 8


def _lowpass_from(size: int, x: torch.Tensor) -> torch.Tensor:
    """The low-pass with the Fourier transform from another size on."""
    ours = resample._LARGE_AXIS
    resample._LARGE_AXIS = size
    try:
        return lowpass2d(x)
    finally:
        resample._LARGE_AXIS = ours


@torch.no_grad()
def operator_rows(args: argparse.Namespace) -> dict[str, dict]:
    """Low-pass by matrices and by a Fourier transform, and the pool, of `CHANNELS` maps of every size."""
    rows = {}
    for size in SIZES:
        x = torch.randn(1, CHANNELS, size, size)
        calls = {
            "matrices": partial(_lowpass_from, 10**9, x),
            "fourier": partial(_lowpass_from, 1, x),
            "pool": partial(asap_pool2d, x),
        }
        timings = common.interleave(calls, "matrices", args.device, args.rounds, warm_up=1, clock="cpu")
        rows[str(size)] = common.as_json(timings)
    return rows


@torch.no_grad()
def network_rows(name: str, args: argparse.Namespace) -> dict[str, dict]:
    """Inference of a network and its twin at every size."""
    models = {"plain": timm.create_model(name).eval(), "asap": timm.create_model(f"{name}_asap").eval()}
    models = {contender: model.to(memory_format=torch.channels_last) for contender, model in models.items()}
    rows = {}
    for size in NETWORKS[name]:
        x = torch.randn(1, 3, size, size).contiguous(memory_format=torch.channels_last)
        calls = {contender: partial(model, x) for contender, model in models.items()}
        rows[str(size)] = common.as_json(
            common.interleave(calls, "plain", args.device, args.rounds, warm_up=1, clock="cpu")
        )
    return rows


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", default=3, type=int)
    args = parser.parse_args()
    args.device = torch.device("cpu")
    torch.manual_seed(0)
    record = {"dtype": "float32", "batch_size": 1, "rounds": args.rounds, "channels": CHANNELS, "clock": "cpu"}
    record["operator"] = operator_rows(args)
    record["networks"] = {name: network_rows(name, args) for name in NETWORKS}
    print(common.store("scale", args.device, record))


if __name__ == "__main__":
    main()
