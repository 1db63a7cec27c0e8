"""How a run computes, and what it keeps and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from timm_asap.command_line import metavar
from timm_asap.errors import UserError, check_seed, unknown_name
from timm_asap.training.options.flags import Precision, check_range

TRACKERS = ("tensorboard", "trackio", "wandb")


@dataclass(frozen=True)
class RuntimeOptions:
    """How the run computes, and what it keeps and reports."""

    mixed_precision: Precision = None
    """Precision of the forward and backward pass; by default what accelerate is configured for, else fp32."""
    channels_last: bool = False
    """Keep images and weights in channels-last memory order."""
    compile: bool = False
    """Compile the model with torch.compile: a minute at the start, faster steps after it."""
    sync_bn: bool = False
    """Compute BatchNorm statistics over all GPUs instead of one at a time."""
    num_workers: int = 0
    """Worker processes per training process that decode large images; images up to 64 px need none."""
    seed: int = 0
    """Seeds the first weights, the order of the images and their augmentation. Which images are held out where a
    data set has no test split does not depend on it: runs of different seeds are tested on the same images."""
    checkpoint_steps: int | None = None
    """Save the state every so many steps as well as after each epoch."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept; the weights of the best epoch are kept besides."""
    tracker: Annotated[str | None, metavar("|".join(TRACKERS))] = None
    """Report to this tracker as well as to metrics.jsonl."""

    def __post_init__(self) -> None:
        check_range(self, "num_workers", 0)
        check_seed(self.seed)
        check_range(self, "checkpoint_steps keep_checkpoints", 1)
        if self.tracker is not None and self.tracker not in TRACKERS:
            raise UserError(unknown_name("tracker", self.tracker, TRACKERS))
