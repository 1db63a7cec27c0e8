"""What share of an evaluation at 32 pixels is the network's: every measure against the bare passes that it needs.

    python -m benchmarks.evaluation [--images 256] [--rounds 3]

Random images of 32 x 32 through the shipped `resnet20_lowres_asap.fashion_mnist`, in CPU time of the process on one
thread. The bare passes of a corruption or a clean cell are one forward pass, of a shift two, of FGSM and PGD a forward
and a backward pass to the images for each step and one forward pass at the end, of as many images as the attack left.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import timm
import torch
import torch.nn.functional as F
from torch import nn

import timm_asap  # noqa: F401  registers the network
from benchmarks import common
from timm_asap.adversarial import AttackSpec, PixelModel
from timm_asap.evaluation.aliasing import measure_batch
from timm_asap.evaluation.corruptions import CORRUPTIONS
from timm_asap.evaluation.measurements import (
    AttackMeasurement,
    Cell,
    CleanMeasurement,
    CorruptionMeasurement,
    ShiftMeasurement,
)
from timm_asap.evaluation.models import Batch
from timm_asap.evaluation.shift import ShiftSpec

MODEL = "resnet20_lowres_asap.fashion_mnist"


class Counted(nn.Module):
    """A classifier that records how many images it saw, with and without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[tuple[int, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(images), images.requires_grad))
        return self.model(images)


def cells() -> list[Cell]:
    """The default measures of `timm-asap evaluate`, one severity of each corruption and one distance of each shift."""
    attacks = [AttackSpec("fgsm", 1 / 255, "linf"), AttackSpec("pgd", 1 / 255, "linf"), AttackSpec("pgd", 0.25, "l2")]
    return [
        CleanMeasurement(),
        *(CorruptionMeasurement(name, 3, "cifar", 0) for name in CORRUPTIONS),
        *(AttackMeasurement(spec) for spec in attacks),
        *(ShiftMeasurement(ShiftSpec(kind, 1.0)) for kind in ("circular", "crop")),
    ]


def bare(model: nn.Module, calls: list[tuple[int, bool]], pixels: torch.Tensor) -> None:
    """The passes of a cell, and nothing else."""
    for images, with_gradient in calls:
        x = pixels[:images]
        if with_gradient:
            x = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(x), torch.zeros(images, dtype=torch.long)), x)
        else:
            with torch.no_grad():
                model(x)


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default=128, type=int)
    parser.add_argument("--rounds", default=3, type=int)
    args = parser.parse_args()
    device = torch.device("cpu")
    network = timm.create_model(MODEL, pretrained=True).eval()
    model = PixelModel(network, network.pretrained_cfg["mean"], network.pretrained_cfg["std"]).eval()
    channels = network.pretrained_cfg["input_size"][0]
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(args.images, channels, 8, 8, generator=generator)
    pixels = F.interpolate(small, size=(32, 32), mode="bilinear")
    labels = model(pixels).argmax(1)
    batch = Batch(torch.arange(args.images), pixels, labels)
    record = {"dtype": "float32", "batch_size": args.images, "rounds": args.rounds, "clock": "cpu", "rows": {}}
    for cell in cells():
        counted = Counted(model)
        cell.run(counted, batch)
        calls: dict[str, Callable[[], object]] = {
            "bare": partial(bare, model, counted.calls, pixels),
            "cell": partial(cell.run, model, batch),
        }
        record["rows"][cell.id] = _rows(calls, device, args.rounds)
    normalized = (pixels - model.mean) / model.std
    calls = {"bare": partial(bare, model, [(args.images, False)], pixels)}
    calls["cell"] = partial(measure_batch, network, normalized)
    record["rows"]["aliasing"] = _rows(calls, device, args.rounds)
    print(common.store("evaluation", device, record))


def _rows(calls: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    rows = common.as_json(common.interleave(calls, "bare", device, rounds, warm_up=1, clock="cpu"))
    return rows


if __name__ == "__main__":
    main()
