"""Run folders for the demo's tests: seeded networks that were never trained, saved as a run exports them."""

import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf
from torch import nn

import timm_asap  # noqa: F401  registers the twins

DIGITS = [str(digit) for digit in range(10)]


def save_network(folder, architecture, label_names=None, input_size=(1, 32, 32), seed=0):
    """Save a network whose answers differ from picture to picture, as those of a trained one do."""
    torch.manual_seed(seed)
    classes = len(label_names) if label_names else 1000
    model = timm.create_model(architecture, num_classes=classes, in_chans=input_size[0])
    _spread_answers(model, input_size)
    pixels = {"mean": (0.3,) * input_size[0], "std": (0.4,) * input_size[0], "input_size": input_size, "crop_pct": 0.9}
    names = {"label_names": label_names} if label_names else None
    save_for_hf(model, folder, safe_serialization=True, data_config=pixels, model_config=names)
    return folder


def save_digits_twin(folder):
    """A small twin that tells the ten digits apart, or would if it were trained."""
    return save_network(folder, "resnet20_lowres_asap", DIGITS)


@torch.no_grad()
def _spread_answers(model, input_size):
    """Normalize over blobs of noise, and center and scale the scores: no class is everybody's answer."""
    coarse = torch.rand(64, input_size[0], *(max(1, n // 6) for n in input_size[1:]))
    images = F.interpolate(coarse, size=input_size[1:], mode="bilinear").sub(0.3).div(0.4)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    model.train()(images)
    scores = model.eval()(images)
    head = model.get_classifier()
    gain = 2 / scores.std(dim=0).mean()
    head.bias.sub_(scores.mean(dim=0)).mul_(gain)
    head.weight.mul_(gain)
