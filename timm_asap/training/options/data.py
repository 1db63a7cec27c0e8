"""Which data a run trains on."""

from __future__ import annotations

from dataclasses import dataclass

from timm_asap.data.options import DataSource
from timm_asap.errors import UserError
from timm_asap.training.options.flags import check_range


@dataclass(frozen=True)
class DataOptions(DataSource):
    """The images, and which of them are held out."""

    val_share: float = 0.0
    """Share of the training images held out, each class in proportion, to choose the best epoch by: model.safetensors
    is then that epoch's, and the test split is looked at once, at the end. Which images are held out is the same for
    every --seed."""
    streaming: bool = False
    """Read the training images as they come instead of from the disk at random; needs --steps-per-epoch."""
    steps_per_epoch: int | None = None
    """Optimizer steps that count as an epoch; by default a pass over the training images."""
    shuffle_buffer: int = 10_000
    """Images that a stream is shuffled among, per process."""

    def __post_init__(self) -> None:
        check_range(self, "val_share", 0, 1, open_high=True)
        check_range(self, "steps_per_epoch shuffle_buffer num_classes", 1)
        if self.streaming and self.steps_per_epoch is None:
            raise UserError("--streaming needs --steps-per-epoch: the length of a stream is not known")
