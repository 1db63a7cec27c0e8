"""Trained networks that take a second to make: random features of one of timm's test networks, and a fitted head."""

import json
from functools import cache

import timm
import torch
from timm.models import save_for_hf

import timm_asap  # noqa: F401  registers the twins
from timm_asap.cli import main
from timm_asap.data import load_dataset

PIXELS = {"mean": (0.3054,), "std": (0.3237,), "interpolation": "bicubic", "crop_pct": 1.0}

# Few enough measurements for a second, and one of each kind.
QUICK = (
    *("--dataset", "digits", "--limit", "40", "--limit-attacks", "20", "--limit-aliasing", "8", "--batch-size", "16"),
    *("--corruptions", "fog,gaussian_noise", "--severities", "1", "3"),
    *("--attacks", "fgsm,pgd", "--eps", "0.5/255", "2/255", "--steps", "3"),
    *("--shifts", "circular", "--shift-pixels", "0.5", "2", "--no-plots"),
)


def write_model(folder, name="test_resnet", seed=0, label_names=None, **kwargs):
    """Write a network that tells the digits apart, as timm loads it; other classes get a random head.

    Args:
        folder: Where to.
        name: timm's name of the architecture.
        seed: Of the random features.
        label_names: Of the classes in its configuration; by default those of the digits.
        kwargs: Further entries of its pixel configuration, such as input_size.
    """
    torch.manual_seed(seed)
    names = [str(n) for n in range(10)] if label_names is None else list(label_names)
    size = kwargs.pop("input_size", (1, 32, 32))
    model = timm.create_model(name, num_classes=len(names), in_chans=size[0]).eval()
    if size[0] == 1 and len(names) == 10:
        fit_head(model)
    pixels = {**PIXELS, "input_size": size, **kwargs}
    config = {"label_names": names} if names else None
    save_for_hf(model, str(folder), model_config=config, safe_serialization=True, data_config=pixels)
    return folder


@torch.no_grad()
def fit_head(model):
    """Ridge regression of the digits' classes on the network's features."""
    images, labels = train_digits()
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    mean = features.mean(dim=0)
    centered = (features - mean).double()
    gram = centered.T @ centered
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    targets = torch.nn.functional.one_hot(labels, 10).double() - 0.1
    weight = torch.linalg.solve(gram, centered.T @ targets).T
    head = model.get_classifier()
    head.weight.copy_(20 * weight)
    head.bias.copy_(-20 * weight @ mean.double())


@cache
def train_digits():
    split = load_dataset("digits").train
    pixels = split.images[:400].float() / 255
    return (pixels - PIXELS["mean"][0]) / PIXELS["std"][0], split.labels[:400]


def evaluate(*words):
    """Run `timm-asap evaluate` in this process; its exit code."""
    return main(["evaluate", *map(str, words)])


def record_of(folder):
    return json.loads((folder / "evaluation.json").read_text())
