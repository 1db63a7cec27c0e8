"""Experiment trackers, through accelerate."""

from __future__ import annotations

import json
from importlib.util import find_spec

from accelerate import Accelerator

from timm_asap.errors import UserError
from timm_asap.training.config import TrainConfig


def check_tracker(name: str | None) -> None:
    """See that the package of a tracker is installed.

    Raises:
        UserError: If it is not.
    """
    if name is not None and find_spec(name) is None:
        raise UserError(f"--tracker {name}: the package is not installed; run: pip install {name}")


def start_tracker(accelerator: Accelerator, config: TrainConfig) -> None:
    """Tell the tracker of a run, if it has one, what the run is."""
    if config.tracker is None:
        return
    plain = {
        name: json.dumps(value) if isinstance(value, (dict, list, tuple)) else value
        for name, value in config.recorded().items()
        if value is not None
    }
    # tensorboard names a run by its folder, and takes no name
    named = {} if config.tracker == "tensorboard" else {config.tracker: {"name": config.run_folder.name}}
    accelerator.init_trackers("timm_asap", config=plain, init_kwargs=named)
