"""What is private or has moved in timm, with the releases that each branch is for: 1.0.20 to 1.0.31 were tried.

Everything else that this package takes from timm is public and the same in all of them. Where one of timm's families
is newer than the installed timm, it has no twins there; a twin that is there is the same network under all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import ClassifierHead
from timm.models import _factory as _timm_factory
from timm.models import _hub, register_notrace_function, register_notrace_module
from timm.models._builder import _resolve_pretrained_source as pretrained_source
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import feature_take_indices
from timm.models._pretrained import DefaultCfg, PretrainedCfg
from timm.models._registry import generate_default_cfgs
from torch import nn
from torch.overrides import TorchFunctionMode

from timm_asap._types import pretrained_cfg_of, undeclared
from timm_asap.errors import UserError

try:
    from timm.models import reparameterize_model  # from 1.0.31 on
except ImportError:
    from timm.utils.model import reparameterize_model  # to 1.0.30

__all__ = [
    "NOTES_ARGUMENTS",
    "DefaultCfg",
    "PretrainedCfg",
    "build_on_meta",
    "factory_kwargs",
    "feature_take_indices",
    "generate_default_cfgs",
    "hub_fault",
    "pooled_features",
    "pretrained_source",
    "record_arguments",
    "register_notrace_function",
    "register_notrace_module",
    "reparameterize_model",
    "resolve_pretrained_cfg",
    "save_for_hf",
]

# From 1.0.31 on `timm.create_model` notes the keywords of a network in `_model_args`, and `save_for_hf` writes them.
NOTES_ARGUMENTS = "_model_args" in inspect.getsource(_timm_factory)
_SAVES_PIXELS = "data_config" in inspect.signature(_hub.save_for_hf).parameters
# From 1.0.21 on timm's layers take the device and dtype of their parameters.
_TAKES_DEVICE = "device" in inspect.signature(ClassifierHead).parameters

# Keywords of a constructor that say where a network lies or how its weights are read, not which network it is.
_NOT_NOTED = ("cache_dir", "device", "dtype", "feature_cls", "pretrained")
# What `save_for_hf` leaves out of the arguments since it writes them: a network in evaluation mode is the same.
_NOT_SAVED = ("drop_rate", "drop_path_rate", "drop_block_rate")


def hub_fault() -> str | None:
    """One line where timm cannot use the installed huggingface_hub, for which it says that there is none; else None.

    1.0.20 imports names that huggingface_hub 2 no longer has.
    """
    if _hub._has_hf_hub:
        return None
    return (
        f"timm {timm.__version__} does not take huggingface-hub {version('huggingface-hub')}: "
        "pip install 'huggingface-hub<2', or pip install -U timm"
    )


def factory_kwargs(device: torch.device | str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """Device and dtype as keywords of timm's layers; none of them where timm's layers do not take them."""
    return {"device": device, "dtype": dtype} if _TAKES_DEVICE else {}


def pooled_features(head: ClassifierHead) -> int:
    """The number of features that the head's pooling gives its classifier: `head.num_features`, from 1.0.31 on."""
    if hasattr(head, "num_features"):
        return head.num_features
    return head.in_features * head.global_pool.feat_mult()


def record_arguments(model: nn.Module, **kwargs: Any) -> None:
    """Note the keywords that a network was made with in its `_model_args`, where timm does not: to 1.0.30.

    Args:
        model: The network.
        **kwargs: As its constructor got them.
    """
    if not NOTES_ARGUMENTS:
        noted = {key: value for key, value in kwargs.items() if value is not None and not key.startswith(_NOT_NOTED)}
        undeclared(model)._model_args = {**getattr(model, "_model_args", {}), **noted}


def save_for_hf(
    model: nn.Module,
    folder: str | Path,
    model_config: Mapping[str, Any] | None = None,
    data_config: Mapping[str, Any] | None = None,
) -> None:
    """Write `model.safetensors` and a `config.json` that gives the same network back, with its own keywords.

    timm's `save_for_hf` does so from 1.0.31 on; to 1.0.30 it takes no `data_config`, and writes neither the keywords of
    the network nor the number of its classes.

    Args:
        model: A network of `timm.create_model`.
        folder: Where to write.
        model_config: Further keys of the file, such as `label_names`.
        data_config: The pixels it takes, in timm's words; by default those of its weights.

    Raises:
        UserError: If timm cannot use the installed huggingface_hub.
    """
    if (fault := hub_fault()) is not None:
        raise UserError(fault)
    config = dict(model_config or {})
    if _SAVES_PIXELS:
        pixels = None if data_config is None else dict(data_config)
        _hub.save_for_hf(model, str(folder), model_config=config, safe_serialization=True, data_config=pixels)
        return
    own = {key: deepcopy(value) for key, value in pretrained_cfg_of(model).items() if key not in ("state_dict", "file")}
    own = {key: value for key, value in own.items() if value is not None and key not in ("source", "url")}
    arguments = {key: value for key, value in getattr(model, "_model_args", {}).items() if key not in _NOT_SAVED}
    channels = getattr(model, "in_chans", arguments.get("in_chans", own["input_size"][0]))
    arguments |= {"num_classes": model.num_classes, "in_chans": channels}
    for key in ("mean", "std"):  # those of its weights, which timm sums or repeats over the channels
        if len(own[key]) not in (1, channels):
            own[key] = (sum(own[key]) / len(own[key]),) * channels
    own |= {key: value for key, value in (data_config or {}).items() if value is not None}
    own |= {"num_classes": model.num_classes, "input_size": (channels, *own["input_size"][1:]), "custom_load": False}
    for key in ("architecture", "label_offset"):
        own.pop(key, None)
    _hub.save_for_hf(
        model,
        str(folder),
        model_config={**config, "pretrained_cfg": own},
        model_args=arguments,
        safe_serialization=True,
    )


class _LinspaceOnCpu(TorchFunctionMode):
    """To 1.0.20, timm reads the rates of stochastic depth from a tensor, which has to have values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """A network without data.

    To 1.0.30, timm reads values while it builds a few of its networks (regnet; to 1.0.20 efficientformer_v2 and nest):
    these have data.

    Args:
        build: Builds it.
    """
    with torch.device("meta"), _LinspaceOnCpu():
        try:
            return build()
        except (TypeError, NotImplementedError):
            if NOTES_ARGUMENTS:  # 1.0.31: the fault is another one
                raise
    return build()
