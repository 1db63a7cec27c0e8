"""Small networks and images that the tests of healing share."""

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

BUFFERS = ("running_mean", "running_var")


def images(count, channels=3, size=16, seed=0):
    """Smooth noise: like photographs, most of it at low frequencies."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size, size, generator=generator)
    return F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="circular"), 3, stride=1) * 2 + 0.3 * noise


def network(seed=0):
    """Two convolutions that stride, each before a BatchNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        BatchNormAct2d(8),
        nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
        nn.BatchNorm1d(5),
    ).eval()


def trained_alike(model, x):
    """Give BatchNorm layers the statistics that training on these images would have left."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
            layer.reset_running_stats()
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def buffers(model):
    return {k: v.clone() for k, v in model.state_dict().items() if k.rpartition(".")[2] in BUFFERS}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
