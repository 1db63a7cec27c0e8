"""Training: one configuration in, one run folder out."""

from typing import TYPE_CHECKING

from timm_asap._startup import lazy_names

if TYPE_CHECKING:
    from timm_asap.training.command_line import parse, resume_command
    from timm_asap.training.config import TrainConfig
    from timm_asap.training.loop import TrainResult, train
    from timm_asap.training.plan import describe, make_plan

__all__ = ["TrainConfig", "TrainResult", "describe", "make_plan", "parse", "resume_command", "train"]

# Whoever reads flags needs no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "TrainConfig": "timm_asap.training.config",
        "TrainResult": "timm_asap.training.loop",
        "describe": "timm_asap.training.plan",
        "make_plan": "timm_asap.training.plan",
        "parse": "timm_asap.training.command_line",
        "resume_command": "timm_asap.training.command_line",
        "train": "timm_asap.training.loop",
    },
)
