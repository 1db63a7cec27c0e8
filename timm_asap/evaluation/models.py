"""The model to measure, by name, and its images: pixels in [0, 1], in batches that are the same for every process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import timm_asap  # noqa: F401  registers the twins
from timm_asap._io import state_sha256
from timm_asap._types import pretrained_cfg_of, undeclared
from timm_asap.data import ImageDataset, LazySplit, Split, build_loader
from timm_asap.data.config import PixelConfig
from timm_asap.data.splits import counted
from timm_asap.errors import UserError
from timm_asap.zoo import AsapOptions, is_twin, load, model_folder

__all__ = ["Batch", "OpenedModel", "PixelBatches", "choose_images", "open_model", "short_name", "weights_sha256"]


_FOLDER = "local-dir:"


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A trained network and what its configuration says of it.

    Args:
        name: As it was asked for.
        network: In eval mode, on the CPU; takes normalized pixels.
        architecture: timm's name of the architecture.
        asap: The resolved window, boundary, layout and stem of a twin; None for a plain network.
        pixels: How images are prepared for it.
        label_names: Names of the classes; None where its configuration holds none.
        weights_sha256: Of its state dict.
        folder: The run folder that it came from; None for any other source.
    """

    name: str
    network: nn.Module
    architecture: str
    asap: dict[str, str | bool] | None
    pixels: PixelConfig
    label_names: tuple[str, ...] | None
    weights_sha256: str
    folder: Path | None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def num_classes(self) -> int:
        """How many classes it has."""
        return undeclared(self.network).num_classes


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
    num_classes: int = undeclared(network).num_classes
    if num_classes < 1:
        raise UserError(f"{name} is no classifier: its num_classes is {num_classes}")
    own = pretrained_cfg_of(network)
    architecture = own["architecture"]
    names = own.get("label_names")
    asap = None
    if is_twin(architecture):
        keys = AsapOptions.__dataclass_fields__
        asap = {key.removeprefix("asap_"): undeclared(network)._model_args[key] for key in keys}
    return OpenedModel(
        name=name,
        network=network,
        architecture=architecture,
        asap=asap,
        pixels=PixelConfig.of_model(network),
        label_names=tuple(names) if names and len(names) == num_classes else None,
        weights_sha256=weights_sha256(network),
        folder=folder,
    )


def short_name(name: str) -> str:
    """The last part of a model's name, for headings."""
    return Path(name.rpartition(":")[2]).name


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 over the state dict: of each entry in alphabetical order its name, dtype, shape and bytes."""
    return state_sha256(network.state_dict())


_KEEP_BYTES = 2 * 2**30  # of decoded images, per process: about 14,000 of 3 x 224 x 224


@dataclass(frozen=True, eq=False)
class Batch:
    """Some of the images.

    Args:
        positions: Their numbers in the split, int64 (B,), on the CPU.
        pixels: float32 (B, C, H, W) in [0, 1], on the device.
        labels: int64 (B,), on the device.
    """

    positions: torch.Tensor
    pixels: torch.Tensor
    labels: torch.Tensor


class PixelBatches:
    """Batches of some images of a split, not normalized.

    Batch k holds the same images whatever process asks for it. Large images are decoded once, and kept in eight bits
    while they fit into memory.

    Args:
        dataset: Where the split comes from.
        split: The images.
        positions: Which of them, ascending.
        batch_size: Images per batch; the last one may be smaller.
        pixels: How the images are prepared; they are not normalized.
        device: Where the pixels go.
        num_workers: Processes that decode large images.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        split: Split,
        positions: torch.Tensor,
        batch_size: int,
        *,
        pixels: PixelConfig,
        device: torch.device,
        num_workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.split = counted(split)
        self.positions = positions
        self.batch_size = batch_size
        self.device = device
        self._pixels = pixels.without_normalization()
        self._num_workers = num_workers
        self._kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def rows(self, number: int) -> slice:
        """The images of a batch, as a part of `positions`."""
        return slice(number * self.batch_size, min((number + 1) * self.batch_size, len(self.positions)))

    def load(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """These batches, in this order.

        Args:
            numbers: Ascending.

        Raises:
            UserError: If a pixel is outside [0, 1], or a file cannot be read.
        """
        fresh = iter(self._decode([number for number in numbers if number not in self._kept]))
        for number in numbers:
            positions = self.positions[self.rows(number)]
            if number in self._kept:
                pixels = self._kept[number].to(self.device).float().div_(255)
            else:
                pixels, _ = next(fresh)
                self._check(pixels)
                self._keep(number, pixels)
                pixels = pixels.to(self.device)
            yield Batch(positions, pixels, self.split.labels[positions].to(self.device))

    def _decode(self, numbers: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if not numbers:
            return iter(())
        # only the last batch of all may be incomplete, and it comes last here, too: so the loader cuts the same ones
        positions = torch.cat([self.positions[self.rows(number)] for number in numbers])
        split = self.split.select(positions)
        loader = build_loader(
            split,
            self.dataset,
            self.batch_size,
            training=False,
            pixels=self._pixels,
            num_workers=self._num_workers,
        )
        return iter(loader)

    def _keep(self, number: int, pixels: torch.Tensor) -> None:
        if not isinstance(self.split, LazySplit):
            return
        kept = sum(images.numel() for images in self._kept.values())
        if kept + pixels.numel() <= _KEEP_BYTES:  # they were eight bits before they were divided by 255
            self._kept[number] = (pixels * 255).round().to(torch.uint8)

    def _check(self, pixels: torch.Tensor) -> None:
        low, high = pixels.min().item(), pixels.max().item()
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"data set {self.dataset.name!r} has pixels from {low:g} to {high:g}: expected them in [0, 1]"
            )


def choose_images(labels: torch.Tensor, limit: int | None, seed: int) -> torch.Tensor:
    """Which images to measure on: of each class in its proportion, at random within it.

    A smaller limit chooses some of what a larger one does.

    Args:
        labels: int64, (N,).
        limit: How many; None, or as many as there are, takes all.
        seed: Of the draw.

    Returns:
        Their positions, ascending, int64.
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    # each image's rank in its own class, as a share of the class: the lowest shares of all classes are taken
    classes, counts = labels.unique(return_inverse=False, return_counts=True)
    share = torch.empty(len(labels), dtype=torch.float64)
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        own = shuffled[labels[shuffled] == label]
        share[own] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    # ties, where classes are of one size, in shuffled order
    order = shuffled[torch.sort(share[shuffled], stable=True).indices]
    return order[:limit].sort().values
