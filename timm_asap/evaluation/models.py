"""The model to measure, by name: the network, how its pixels are prepared, and what it calls its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import timm_asap  # noqa: F401  registers the twins
from timm_asap._io import state_sha256
from timm_asap.errors import UserError
from timm_asap.zoo import AsapOptions, is_twin, load, model_folder

__all__ = ["OpenedModel", "open_model", "short_name", "weights_sha256"]

_FOLDER = "local-dir:"


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A trained network and what its configuration says of it.

    Args:
        name: As it was asked for.
        network: In eval mode, on the CPU; takes normalised pixels.
        architecture: timm's name of the architecture.
        asap: The resolved window, boundary, layout and stem of a twin; None for a plain network.
        input_size: (C, H, W) of an image.
        mean: Per channel, on the [0, 1] scale.
        std: Likewise.
        interpolation: How large images are resized.
        crop_pct: Share of the side of a large image that the centre crop keeps.
        label_names: Names of the classes; None where its configuration holds none.
        weights_sha256: Of its state dict.
        folder: The run folder that it came from; None for any other source.
    """

    name: str
    network: nn.Module
    architecture: str
    asap: dict[str, str | bool] | None
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    label_names: tuple[str, ...] | None
    weights_sha256: str
    folder: Path | None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart."""
        return self.network.num_classes


def open_model(name: str) -> OpenedModel:
    """The trained model of that name.

    Args:
        name: A run folder, a pretrained model of timm or its twin (resnet50.a1_in1k), `local-dir:FOLDER` or
            `hf-hub:NAME`.

    Raises:
        UserError: If there is no such model, it has no weights, or it is no classifier.
    """
    source = model_folder(name)
    folder = Path(source.removeprefix(_FOLDER)) if source.startswith(_FOLDER) else None
    if folder is not None and not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} holds no trained model: expected a run folder, with model.safetensors")
    network = load(source)
    if network.num_classes < 1:
        raise UserError(f"{name} is no classifier: its num_classes is {network.num_classes}")
    own = network.pretrained_cfg
    architecture = own["architecture"]
    names, channels = own.get("label_names"), own["input_size"][0]
    asap = None
    if is_twin(architecture):
        keys = AsapOptions.__dataclass_fields__
        asap = {key.removeprefix("asap_"): network._model_args[key] for key in keys}
    return OpenedModel(
        name=name,
        network=network,
        architecture=architecture,
        asap=asap,
        input_size=tuple(own["input_size"]),
        mean=_per_channel(own["mean"], channels),
        std=_per_channel(own["std"], channels),
        interpolation=own["interpolation"],
        crop_pct=own["crop_pct"],
        label_names=tuple(names) if names and len(names) == network.num_classes else None,
        weights_sha256=weights_sha256(network),
        folder=folder,
    )


def short_name(name: str) -> str:
    """The last part of a model's name, for headings."""
    return Path(name.rpartition(":")[2]).name


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 over the state dict: of each entry in alphabetical order its name, dtype, shape and bytes."""
    return state_sha256(network.state_dict())


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One for each channel; a configuration may hold one for all."""
    return tuple(values) * channels if len(values) == 1 else tuple(values)
