"""Right uses of the public names, which a type checker must accept without a word; tests/test_types.py runs it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import timm_asap
from timm_asap.ops.layers import AsapPool2d, AsapUpsample3d, LowPass1d
from timm_asap.ops.spectral import Boundary, Window

images = torch.zeros(4, 3, 32, 32)
model: nn.Module = timm_asap.load("resnet20_lowres_asap.fashion_mnist", num_classes=10)

report = timm_asap.convert(model)
report = timm_asap.convert(model, layout="paper", window="hamming", boundary="reflect", stem=True)
report = timm_asap.convert(model, "preserve", Window.FLC, Boundary.ZERO, "auto", (3, 32, 32), dry_run=True)
report = timm_asap.convert(model, example=(images,), upsampling=True, like=report.to_json())
converted: int = len(report.converted)
becomes: list[str] = [site.becomes for site in report.converted]

pool: AsapPool2d = AsapPool2d(64, stride=(2, 1), window="flc", boundary="zero")
pooled: torch.Tensor = timm_asap.asap_pool2d(images, 2, "asap", "circular")
signal: torch.Tensor = timm_asap.lowpass1d(torch.zeros(1, 8), stride=(2,))
layers = nn.Sequential(pool, LowPass1d(stride=3), AsapUpsample3d(stride=(1, 2, 2)))
strides: tuple[int, ...] = pool.stride

healed = timm_asap.heal(model, images, refit="all", limit=100)
healed = timm_asap.heal(model, [images, images], refit=True, plain=model, ridge=1e-3)
if healed.after is not None and healed.after.kl is not None:
    divergence: float = healed.after.kl

fused: nn.Module = timm_asap.reparameterize(model, inplace=True)
timm_asap.save(model, Path("folder"))
again: str = str(timm_asap.restore(model, "folder"))
matrix: torch.Tensor = timm_asap.spectral.pool_matrix(8, 2, "asap", "reflect")
operations = [operation.kind for operation in timm_asap.watch(model, images)]
names: list[str] = timm_asap.zoo.twin_names()
