"""What a training run can be told, one dataclass per concern; `TrainConfig` is all of them together."""
