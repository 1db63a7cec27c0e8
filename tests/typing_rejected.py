"""Wrong uses of the public names: a type checker must report the lines that end in `# rejected`, and no other one.

tests/test_types.py runs it; nothing imports it.
"""

from __future__ import annotations

import torch
from torch import nn

import timm_asap
from timm_asap.ops.layers import AsapPool2d, LowPass2d

images = torch.zeros(4, 3, 32, 32)
model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2))

timm_asap.conver(model)  # rejected
timm_asap.convert(model, window="hammin")  # rejected
timm_asap.convert(model, boundary="periodic")  # rejected
timm_asap.convert(model, layout="papers")  # rejected
timm_asap.convert(model, stem="yes")  # rejected
timm_asap.convert(model, input_size=(32, 32))  # rejected
timm_asap.convert(model, input_size=224)  # rejected
timm_asap.convert(model, dryrun=True)  # rejected
timm_asap.convert("resnet50")  # rejected
timm_asap.convert()  # rejected
_ = timm_asap.convert(model).convertd  # rejected
_ = timm_asap.convert(model).converted[0].layers  # rejected
timm_asap.convert(model).save("report.json")  # rejected

AsapPool2d(boundary="circle")  # rejected
AsapPool2d(window="hann")  # rejected
AsapPool2d(stride=2.0)  # rejected
AsapPool2d(kernel_size=2)  # rejected
LowPass2d(64, 2, dtype="float32")  # rejected
timm_asap.asap_pool2d(images, stride=(2, 2, 2))  # rejected
timm_asap.asap_pool2d(images, window="asap2")  # rejected
timm_asap.lowpass2d([1.0, 2.0])  # rejected
timm_asap.asap_pool4d(images)  # rejected

timm_asap.heal(model, images, refitt=True)  # rejected
timm_asap.heal(model, images, refit="every")  # rejected
timm_asap.heal(model)  # rejected
_ = timm_asap.heal(model, images).befor  # rejected
timm_asap.load(3)  # rejected
timm_asap.load()  # rejected
timm_asap.save(model)  # rejected
timm_asap.restore("folder", model)  # rejected
timm_asap.reparameterize(model, in_place=True)  # rejected
timm_asap.spectral.pool_matrix(8, 2, "triangle")  # rejected
timm_asap.spectral.pool_matrices(8)  # rejected
