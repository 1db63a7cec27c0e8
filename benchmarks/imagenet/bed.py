"""The test bed: crops of test pictures and a few known ones, and how a network's predictions on them are compared.

None of this is accuracy on ImageNet: the pictures have no labels, and what counts is agreement with the plain network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from timm_asap.evaluation.corruptions import CORRUPTIONS, corrupt
from timm_asap.healing import Fidelity
from timm_asap.healing.adapt_plan import imagenet_names

__all__ = ["KNOWN", "TestBed", "cut_crops", "known_pictures"]

SHIFTS = (1, 3)
"""Distances in pixels, each along the height and along the width."""

_MARGIN = 4
_SEVERITY = 3
_RESAMPLES = 2000

KNOWN = {"china.jpg": "palace", "flower.jpg": "daisy", "coffee.png": "espresso", "camera.png": "tripod"}
"""Pictures that scikit-learn and scikit-image bundle, and ImageNet's class that plain EfficientNet-Lite0 gives each."""


def known_pictures(folder: Path | None = None) -> dict[str, Path]:
    """Where the known pictures lie: in the installed packages, or all in one folder."""
    if folder is None:
        import skimage
        import sklearn.datasets

        places = [Path(sklearn.datasets.__file__).parent / "images", Path(skimage.__file__).parent / "data"]
    else:
        places = [folder]
    return {name: next(p / name for p in places if (p / name).is_file()) for name in KNOWN}


@dataclass(frozen=True)
class Crops:
    """uint8 pixels with a margin, (N, 3, size + 8, size + 8), and the number of the picture of each."""

    pixels: torch.Tensor
    pictures: torch.Tensor


class TestBed:
    """Measures networks against a plain one.

    Args:
        plain: The plain network of timm.
        pictures: The test pictures by name.
        known: The known pictures by file name.
        crops: Crops of each picture.
    """

    __test__ = False  # no class of tests, whatever pytest thinks of its name

    def __init__(self, plain: nn.Module, pictures: dict[str, Path], known: dict[str, Path], crops: int = 5) -> None:
        own = plain.pretrained_cfg
        self.size = own["input_size"][-1]
        self.mean, self.std = (torch.tensor(own[name]).view(-1, 1, 1) for name in ("mean", "std"))
        self.crops = cut_crops(pictures, self.size, crops)
        self.known = {name: _center(path, self.size, own["crop_pct"]) for name, path in known.items()}
        self.plain = self.logits(plain, self.view())

    def view(self, down: int = 0, right: int = 0) -> torch.Tensor:
        """The crops, moved by some pixels: uint8 (N, 3, size, size)."""
        rows, columns = (slice(_MARGIN + d, _MARGIN + d + self.size) for d in (down, right))
        return self.crops.pixels[:, :, rows, columns]

    @torch.no_grad()
    def logits(self, model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        """What a network gives for uint8 images, in evaluation mode."""
        model = model.eval().to(memory_format=torch.channels_last)
        parts = []
        for part in pixels.split(31):
            x = (part.float() / 255 - self.mean) / self.std
            parts.append(model(x.contiguous(memory_format=torch.channels_last)).float())
        return torch.cat(parts)

    def measure(self, model: nn.Module, corruptions: bool = False) -> dict[str, Any]:
        """Everything of one network.

        Args:
            model: The network.
            corruptions: Whether to compare its predictions under the 15 corruptions with its own on clean crops, on
                one crop of each picture; the slowest part.
        """
        logits = self.logits(model, self.view())
        found = Fidelity.of(self.plain, logits)
        same = (logits.argmax(dim=1) == self.plain.argmax(dim=1)).double()
        record: dict[str, Any] = {
            "crops": found.images,
            "pictures": len(self.crops.pictures.unique()),
            "agreement": found.agreement,
            "agreement_interval": self._by_picture(same),
            "confident_crops": found.confident_images,
            "confident_agreement": found.confident_agreement,
            "kl": found.kl,
            "shift_consistency": self._shift_consistency(model, logits),
            "known": self._known(model),
        }
        if corruptions:
            record["corruption_consistency"] = self._corruption_consistency(model)
        return record

    def shifted_plain(self, plain: nn.Module) -> dict[str, Any]:
        """What agreement could be at most: the plain network with itself, the crops moved by one pixel."""
        found = [Fidelity.of(self.plain, self.logits(plain, self.view(*d))) for d in ((0, 1), (1, 0))]
        return {
            name: sum(getattr(f, name) for f in found) / len(found)
            for name in ("agreement", "confident_agreement", "kl")
        }

    def _shift_consistency(self, model: nn.Module, logits: torch.Tensor) -> float:
        """Percent of predictions that stay when the crop moves, mean over distances and axes."""
        same = []
        for distance in SHIFTS:
            for down, right in ((distance, 0), (0, distance)):
                moved = self.logits(model, self.view(down, right))
                same.append((moved.argmax(dim=1) == logits.argmax(dim=1)).double().mean().item())
        return 100 * sum(same) / len(same)

    def _corruption_consistency(self, model: nn.Module) -> dict[str, float]:
        """Percent of predictions that stay under each corruption, severity 3."""
        first = torch.cat([(self.crops.pictures == p).nonzero()[:1, 0] for p in self.crops.pictures.unique()])
        pixels = self.view()[first]
        clean = self.logits(model, pixels).argmax(dim=1)
        kept = {}
        for name in CORRUPTIONS:
            changed = corrupt(pixels, name, _SEVERITY, seed=0)
            kept[name] = 100 * (self.logits(model, changed).argmax(dim=1) == clean).double().mean().item()
        return {**kept, "mean": sum(kept.values()) / len(kept)}

    def _known(self, model: nn.Module) -> dict[str, str]:
        names = imagenet_names(model)
        return {name: names[int(self.logits(model, pixels[None]).argmax())] for name, pixels in self.known.items()}

    def _by_picture(self, values: torch.Tensor) -> tuple[float, float]:
        """The 95 % bootstrap interval of a mean in percent, over pictures: crops of one are not independent."""
        numbers = self.crops.pictures.unique()
        means = np.array([values[self.crops.pictures == n].mean().item() for n in numbers])
        drawn = np.random.default_rng(0).choice(means, (_RESAMPLES, len(means))).mean(axis=1)
        return tuple(float(end) for end in 100 * np.percentile(drawn, [2.5, 97.5]))


def cut_crops(pictures: dict[str, Path], size: int, count: int) -> Crops:
    """Square crops of half to all of the shorter side, with a margin to shift in; the same in every run."""
    pixels, numbers = [], []
    side = size + 2 * _MARGIN
    for number, name in enumerate(sorted(pictures)):
        with Image.open(pictures[name]) as image:
            image = image.convert("RGB")
        rng = np.random.default_rng(number)
        for _ in range(count):
            cut = int(min(image.size) * rng.uniform(0.5, 1.0))
            left, top = rng.integers(0, image.width - cut + 1), rng.integers(0, image.height - cut + 1)
            crop = image.crop((left, top, left + cut, top + cut)).resize((side, side), Image.Resampling.BICUBIC)
            pixels.append(torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1))
            numbers.append(number)
    return Crops(torch.stack(pixels), torch.tensor(numbers))


def _center(path: Path, size: int, crop_pct: float) -> torch.Tensor:
    """A picture as timm prepares it for testing, in uint8: bicubic, then the center crop."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    scale = size / crop_pct / min(image.size)
    image = image.resize(tuple(round(scale * length) for length in image.size), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    crop = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)
