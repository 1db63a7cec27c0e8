"""Run folders for the demo's tests: seeded networks that were never trained, saved as a run exports them."""

import timm
import torch
from timm.models import save_for_hf

import timm_asap  # noqa: F401  registers the twins

DIGITS = [str(digit) for digit in range(10)]


def save_network(folder, architecture, label_names=None, input_size=(1, 32, 32), seed=0, **kwargs):
    """Save a network; its weights are large enough that its answers differ from picture to picture."""
    torch.manual_seed(seed)
    classes = len(label_names) if label_names else 1000
    model = timm.create_model(architecture, num_classes=classes, in_chans=input_size[0], **kwargs)
    with torch.no_grad():
        model.get_classifier().weight.mul_(20)
    pixels = {"mean": (0.3,) * input_size[0], "std": (0.4,) * input_size[0], "input_size": input_size, "crop_pct": 0.9}
    names = {"label_names": label_names} if label_names else None
    save_for_hf(model, folder, safe_serialization=True, data_config=pixels, model_config=names)
    return folder


def save_digits_twin(folder):
    """A small twin that tells the ten digits apart, or would if it were trained."""
    return save_network(folder, "resnet20_lowres_asap", DIGITS)
