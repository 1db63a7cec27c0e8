"""Training: one configuration in, one run folder out."""

from timm_asap.training.command_line import parse, resume_command
from timm_asap.training.config import TrainConfig
from timm_asap.training.loop import TrainResult, train
from timm_asap.training.plan import describe, make_plan

__all__ = ["TrainConfig", "TrainResult", "describe", "make_plan", "parse", "resume_command", "train"]
