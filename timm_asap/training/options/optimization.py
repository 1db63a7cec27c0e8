"""How the weights are optimized: optimizer, schedule, loss, averaging."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from timm_asap.command_line import Name, metavar
from timm_asap.errors import UserError, unknown_name
from timm_asap.training.options.flags import JsonObject, check_range

SCHEDULES = ("constant", "cosine", "multistep", "poly", "rsqrt", "step", "tanh", "wsd")
CLIP_MODES = ("norm", "value", "agc")
LOSSES = ("ce", "bce")


@dataclass(frozen=True)
class OptimizationOptions:
    """How the weights are optimized."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images per optimizer step, over all processes together."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, one after the other, to save memory."""
    opt: Name = "sgd"
    """Optimizer, by timm's name for it; sgd has Nesterov momentum."""
    opt_kwargs: JsonObject = field(default_factory=dict)
    """Further keywords of the optimizer, as JSON: '{"betas": [0.9, 0.95]}'."""
    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Momentum of the optimizers that take one."""
    weight_decay: float = 5e-4
    """Weight decay; biases and normalisation layers have none."""
    layer_decay: float | None = None
    """Factor on the learning rate from each group of layers to the one before it, for fine-tuning: 0.7 to 1."""
    sched: Annotated[str, metavar("|".join(SCHEDULES))] = "cosine"
    """Learning-rate schedule, set at every step."""
    sched_kwargs: JsonObject = field(default_factory=dict)
    """Further keywords of timm's create_scheduler_v2, times in epochs: '{"decay_milestones": [60, 80]}'."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up, part of --epochs."""
    min_lr: float = 0.0
    """Learning rate that the schedule ends at."""
    clip_grad: float | None = None
    """Limit of the gradient: of its norm, of its values or, with agc, of its norm against that of the weights."""
    clip_mode: Annotated[str, metavar("|".join(CLIP_MODES))] = "norm"
    """What --clip-grad limits."""
    loss: Annotated[str, metavar("|".join(LOSSES))] = "ce"
    """ce, cross-entropy over the classes, or bce, binary cross-entropy of each class."""
    bce_threshold: float | None = None
    """With --loss bce, targets above this count as 1 and the others as 0: mixed images then have two classes."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in [0, 1)."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the weights, such as 0.9998; it is what is then tested and
    saved. Its first steps average over fewer (timm's warm-up)."""
    freeze_bn: bool = False
    """Leave the statistics of BatchNorm layers as they are, and normalise by them in training too: for images that are
    few, or unlike those that the weights were trained on."""
    early_stop: int | None = None
    """Stop after this many epochs without a better validation accuracy; needs --val-share."""

    def __post_init__(self) -> None:
        check_range(self, "epochs batch_size accumulate early_stop", 1)
        check_range(self, "warmup_epochs weight_decay min_lr", 0)
        check_range(self, "lr clip_grad", 0, open_low=True)
        check_range(self, "layer_decay", 0, 1, open_low=True)
        check_range(self, "momentum label_smoothing ema", 0, 1, open_high=True)
        for kind, name, known in (
            ("schedule", self.sched, SCHEDULES),
            ("clip mode", self.clip_mode, CLIP_MODES),
            ("loss", self.loss, LOSSES),
        ):
            if name not in known:
                raise UserError(unknown_name(kind, name, known))
        check_range(self, "bce_threshold", 0, 1)
