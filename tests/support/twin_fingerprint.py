"""What tells one network from another, in a few numbers that no release of timm, torch or Python may change."""

import hashlib
import json
import warnings
import zlib
from pathlib import Path

import timm
import torch

from timm_asap._timm import build_on_meta
from timm_asap.conversion import conversion_of

FILE = Path(__file__).parents[1] / "goldens" / "twin_fingerprints.json"


def _digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def structure(twin):
    """Parameters and buffers by name and shape; alias-free layers by name and operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # meta tensors cannot be initialized, and some models say so
        model = build_on_meta(lambda: timm.create_model(twin))
    state = [f"{name} {tuple(value.shape)}" for name, value in sorted(model.state_dict().items())]
    layers = conversion_of(model)["converted"]
    converted = [f"{name} {entry['becomes']}" for name, entry in sorted(layers.items())]
    return {"tensors": len(state), "state": _digest(state), "layers": len(converted), "converted": _digest(converted)}


def fill(model):
    """Give every tensor values that depend on its name alone."""
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            if name.endswith("running_var"):
                tensor.copy_(1 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                fan = max(1, tensor.numel() // max(1, tensor.shape[0] if tensor.ndim else 1))
                scale = 0.1 if tensor.ndim < 2 else fan**-0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
    return model


def logits(twin):
    """The first scores of an image of noise, of a network with the weights of `fill`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fill(timm.create_model(twin)).eval()
    image = torch.randn(1, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(image)[0, :4].double().tolist()


def known():
    """The fingerprints that were written down, by name of the twin."""
    return json.loads(FILE.read_text(encoding="utf-8"))
