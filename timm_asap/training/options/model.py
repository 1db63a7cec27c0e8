"""Which network a run trains, and which one teaches it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from timm_asap.command_line import Model, metavar
from timm_asap.errors import UserError
from timm_asap.training.options.flags import JsonObject, Stem, check_range


@dataclass(frozen=True)
class ModelOptions:
    """The network, and what it learns from."""

    model: Model = "resnet20_lowres_asap"
    """Any model name of timm, such as resnet50_asap or convnext_tiny, or hf-hub:NAME, or local-dir:FOLDER."""
    pretrained: bool = False
    """Start from the model's pretrained weights, with the image size, mean and std that they were trained with."""
    asap_window: Annotated[str | None, metavar("asap|hamming|flc")] = None
    """Window of an *_asap model; by default asap."""
    asap_boundary: Annotated[str | None, metavar("circular|reflect|zero")] = None
    """Boundary of an *_asap model; by default circular."""
    asap_layout: Annotated[str | None, metavar("preserve|paper")] = None
    """Layout of an *_asap model; by default preserve."""
    asap_stem: Stem = None
    """Whether an *_asap model converts its stem; by default auto: where its stride is 2 or 3."""
    drop_rate: float | None = None
    """Dropout probability before the classifier; by default the model's own."""
    drop_path_rate: float | None = None
    """Stochastic depth: the probability that the last block is skipped; by default the model's own."""
    model_kwargs: JsonObject = field(default_factory=dict)
    """Further keywords of timm.create_model, as JSON: '{"global_pool": "max"}'."""
    image_size: int | None = None
    """Side in pixels of large images in testing and, unless --train-image-size says otherwise, in training; by default
    that of the pretrained weights, or 224."""
    train_image_size: int | None = None
    """Side in pixels of large images in training."""
    crop_pct: float | None = None
    """Share of the side that the centre crop of a large test image keeps; by default the model's own."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""

    teacher: Model | None = None
    """Learn from this network's outputs, too (distillation): a model name of timm with its pretrained weights, or
    hf-hub:NAME, or local-dir:FOLDER. The plain original is the teacher that a network with swapped strides wants."""
    teacher_weight: float = 0.5
    """Share of the loss that the teacher's answers make up, from 0 to 1; the labels make up the rest."""
    teacher_temperature: float = 4.0
    """Temperature that softens both networks' answers (Hinton et al., arXiv 1503.02531)."""
    teacher_features: float = 0.0
    """Weight of the relative squared distance between the two networks' maps after each alias-free layer; for a
    teacher that has the same layers, as the plain original of a twin."""

    def __post_init__(self) -> None:
        check_range(self, "drop_rate drop_path_rate", 0, 1, open_high=True)
        check_range(self, "image_size train_image_size", 16)
        check_range(self, "crop_pct", 0, 1, open_low=True)
        check_range(self, "teacher_weight", 0, 1)
        check_range(self, "teacher_features", 0)
        check_range(self, "teacher_temperature", 0, open_low=True)
        for name in ("drop_rate", "drop_path_rate"):
            if getattr(self, name) is not None and name in self.model_kwargs:
                raise UserError(f"--{name.replace('_', '-')} and --model-kwargs both set {name}: give only one")

    @property
    def asap_kwargs(self) -> dict[str, Any]:
        """The `asap_*` keywords that were given."""
        values = {f.name: getattr(self, f.name) for f in fields(ModelOptions) if f.name.startswith("asap_")}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def drop_kwargs(self) -> dict[str, float]:
        """The drop rates that were given."""
        values = {name: getattr(self, name) for name in ("drop_rate", "drop_path_rate")}
        return {name: value for name, value in values.items() if value is not None}
