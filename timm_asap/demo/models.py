"""The two networks that the demo shows side by side: an alias-free one, and one with plain strides."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from timm_asap.adversarial import PixelModel
from timm_asap.conversion.convert import convert
from timm_asap.data.config import PixelConfig
from timm_asap.errors import UserError, first_line
from timm_asap.evaluation.aliasing import LayerAliasing, measure_batch
from timm_asap.evaluation.models import OpenedModel, open_model
from timm_asap.evaluation.plan import resolve_table
from timm_asap.healing.pair import plain_copy
from timm_asap.text import plain_text
from timm_asap.zoo.asap_twins import SUFFIX, plain_name

__all__ = ["DemoModel", "DemoPair", "open_pair"]


@dataclass(frozen=True, eq=False)
class DemoModel:
    """One of the two networks.

    Args:
        title: What the page calls it.
        classifier: Takes pixels in [0, 1]; its `model` is the network.
        class_names: One per class, no two alike.
        folder: The run folder that its weights come from; None for any other source.
    """

    title: str
    classifier: PixelModel
    class_names: tuple[str, ...]
    folder: Path | None

    @torch.no_grad()
    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of each class, (B, classes), for pixels (B, C, H, W) in [0, 1]."""
        return self.classifier(pixels).softmax(dim=1)

    def aliasing(self, pixels: torch.Tensor) -> list[LayerAliasing]:
        """What each downsampling layer samples, for pixels (B, C, H, W) in [0, 1]."""
        own = self.classifier
        return measure_batch(own.model, (pixels - own.mean) / own.std)


@dataclass(frozen=True, eq=False)
class DemoPair:
    """The two networks, and how a picture is prepared for both.

    Args:
        twin: The alias-free network.
        plain: The network with plain strides.
        same_weights: Whether both have the same weights: one of them then was trained with the strides of the other.
        pixels: How pictures are prepared.
    """

    twin: DemoModel
    plain: DemoModel
    same_weights: bool
    pixels: PixelConfig

    @property
    def table(self) -> str:
        """Whose strengths the corruptions have: `"cifar"` up to 64 pixels a side, else `"imagenet"`."""
        return resolve_table("auto", self.pixels.size)


def open_pair(model: str, plain: str | None = None) -> DemoPair:
    """Open the networks of the demo.

    Args:
        model: A run folder, a pretrained model of timm or its twin (resnet50.a1_in1k), `local-dir:FOLDER` or
            `hf-hub:NAME`. Of a twin the plain network is a copy with the strides as they were; of a plain network the
            twin is a converted copy.
        plain: Another trained network to show as the plain one.

    Raises:
        UserError: If a model is not available, has no strides to convert, or the two take other pictures or tell other
            classes apart.
    """
    opened = open_model(model)
    _check(opened)
    twin = plain_model = _demo_model(opened)
    if opened.asap is None:
        network = copy.deepcopy(opened.network)
        if not convert(network).converted:
            raise UserError(f"{model} has no strided layer to convert: expected a convolutional network")
        twin = _copy(plain_model, f"{opened.architecture}{SUFFIX}, same weights, strides swapped", network)
    elif plain is None:
        title = f"{plain_name(opened.architecture)}, same weights, strides unswapped"
        plain_model = _copy(twin, title, plain_copy(opened.network))
    if plain is not None:
        plain_model = _open_plain(plain, opened, twin)
    pair = DemoPair(twin, plain_model, plain is None, opened.pixels)
    _try_out(pair, model)
    return pair


def _check(opened: OpenedModel) -> None:
    if opened.num_classes < 2:
        raise UserError(f"{opened.name} is no classifier: its num_classes is {opened.num_classes}")
    if opened.pixels.size[0] not in (1, 3):
        raise UserError(f"{opened.name} takes {opened.pixels.size[0]} channels: expected 1 or 3, as pictures have")


def _open_plain(name: str, of_twin: OpenedModel, twin: DemoModel) -> DemoModel:
    opened = open_model(name)
    if opened.asap is not None:
        raise UserError(f"--plain {name} is alias-free itself: expected a network with plain strides")
    if opened.pixels.size != of_twin.pixels.size:
        sizes = (" x ".join(map(str, size)) for size in (of_twin.pixels.size, opened.pixels.size))
        raise UserError("{} takes images of {}, and --plain {} of {}".format(of_twin.name, next(sizes), name, *sizes))
    model = _demo_model(opened)
    if sorted(model.class_names) != sorted(twin.class_names):
        raise UserError(
            f"{of_twin.name} has {_few(twin.class_names)}, and --plain {name} {_few(model.class_names)}: "
            "expected the same classes"
        )
    return model


def _demo_model(opened: OpenedModel) -> DemoModel:
    classifier = PixelModel(opened.network, opened.pixels.mean, opened.pixels.std).eval()
    return DemoModel(_title(opened), classifier, _class_names(opened), opened.folder)


def _copy(model: DemoModel, title: str, network: nn.Module) -> DemoModel:
    own = model.classifier
    classifier = PixelModel(network, own.mean.flatten().tolist(), own.std.flatten().tolist()).eval()
    return replace(model, title=title, classifier=classifier)


def _title(opened: OpenedModel) -> str:
    if opened.folder is not None:
        folder = opened.folder.resolve().name
        return folder if opened.architecture in folder else f"{opened.architecture} ({folder})"
    return opened.name.removeprefix("hf-hub:")


def _class_names(opened: OpenedModel) -> tuple[str, ...]:
    names: Sequence[str] | None = opened.label_names
    if names is None:
        if subset := infer_imagenet_subset(opened.network):
            info = ImageNetInfo(subset)
            # of the synonyms of a synset the first
            names = [info.index_to_description(i).split(",")[0] for i in range(opened.num_classes)]
        else:
            names = [f"class {i}" for i in range(opened.num_classes)]
    names = [plain_text(name) for name in names]  # a stranger's words
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names))


def _try_out(pair: DemoPair, name: str) -> None:
    """One image through both networks: what does not fit says so only there."""
    height, width = pair.pixels.size[1:]
    for model in (pair.twin, pair.plain):
        try:
            scores = model.probabilities(torch.zeros(1, *pair.pixels.size))
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(f"{name} cannot take images of {height} x {width} pixels: {first_line(error)}") from error
        if scores.shape != (1, len(model.class_names)):
            raise UserError(f"{model.title} gives no scores for {len(model.class_names)} classes")
        if not scores.isfinite().all():
            raise UserError(f"{model.title} gives NaN or infinity; its training diverged")


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}, ...)"
