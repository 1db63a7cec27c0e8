"""`load`, and `timm.create_model` for names that a user typed: what is wrong with one is said in one line.

Every model that enters from the Hub or from a folder comes through here: its configuration is checked before anything
is built, its weights are safetensors, and what was downloaded is compared with what the Hub states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, split_model_name_tag
from torch import nn

from timm_asap._timm import build_on_meta, hub_fault, pretrained_source, record_arguments, resolve_pretrained_cfg
from timm_asap._types import pretrained_cfg_of
from timm_asap.errors import UserError, unknown_name
from timm_asap.machine import check_memory, image_memory
from timm_asap.text import as_text
from timm_asap.zoo.hub_client import split_revision
from timm_asap.zoo.hub_files import CONFIG, WEIGHTS, fetch
from timm_asap.zoo.model_config import read_model_config

__all__ = ["check_model_name", "create_model", "load", "model_folder"]

# What timm and the Hub raise for weights that are not available, for files that are no model, and for keywords that a
# model does not take.
_ERRORS = (TypeError, ValueError, RuntimeError, OSError, AssertionError, KeyError, SafetensorError)
_HUB, _FOLDER = ("hf-hub", "hf_hub"), "local-dir"


def load(name: str, **kwargs: Any) -> nn.Module:
    """Load a trained network, ready to classify.

    `timm.create_model(name, pretrained=True)` gives the same network. This also checks the configuration before
    anything is built of it, sees that the weights are those that the Hub states (by sha256; the client alone accepts
    wrong bytes of the right size), takes safetensors alone, and says in one line what is wrong. What was loaded once
    loads offline.

    Args:
        name: `hf-hub:user/name`, `hf-hub:user/name@revision`, `local-dir:FOLDER`, or an architecture of timm or of
            timm_asap with its tag: `resnet50_asap.a1_in1k`.
        **kwargs: Keywords of `timm.create_model`, such as `num_classes` or `features_only`.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        UserError: If there is no such model, it is not available, its configuration is not one that timm writes, or its
            weights are not those that the Hub states.

    Examples:
        >>> import timm_asap
        >>> model = timm_asap.load("hf-hub:you/resnet20_lowres_asap.fashion_mnist")  # doctest: +SKIP
    """
    if not isinstance(name, str):
        raise UserError(f"model: expected a name such as hf-hub:user/name, got a {type(name).__name__}")
    source = _source(name)
    if source is None and (":" in name or "/" in name):
        raise UserError(f"model '{as_text(name)}': expected hf-hub:user/name, local-dir:FOLDER or architecture.tag")
    check_model_name(name, pretrained=True)
    return create_model(name, pretrained=True, **kwargs).eval()


def check_model_name(name: str, kind: str = "model", *, pretrained: bool = False) -> None:
    """Find an unknown architecture or tag without building anything.

    Args:
        name: `architecture` or `architecture.tag`; names with a source, such as hf-hub:NAME, are not looked at.
        kind: What to call it in an error.
        pretrained: It must have weights, too.

    Raises:
        UserError: If there is no such model.
    """
    if ":" in name:
        return
    architecture, tag = split_model_name_tag(name)
    if not is_model(architecture):
        raise UserError(unknown_name(kind, name, timm.list_models()))
    tagged = get_arch_pretrained_cfgs(architecture)
    if tag and name not in tagged:
        raise UserError(unknown_name(f"tag of {architecture}", tag, [split_model_name_tag(t)[1] for t in tagged]))
    own = get_pretrained_cfg(name) if pretrained else None
    if own is not None and not own.has_weights:
        have = [known for known, cfg in tagged.items() if cfg.has_weights and known != name]
        if have:
            shown = ", ".join(have[:5]) + (f" and {len(have) - 5} more" if len(have) > 5 else "")
            raise UserError(f"{name} has no pretrained weights; with weights: {shown}")
        raise UserError(f"{name} has no pretrained weights: train it first, and give the run folder")


def model_folder(name: str) -> str:
    """A model's name with the source of one that is a folder: `runs/net` gives `local-dir:runs/net`.

    Args:
        name: As a user typed it. A name without a source is a folder if there is one, or if it has a slash.

    Raises:
        UserError: If there is no such folder.
    """
    path = name.removeprefix(f"{_FOLDER}:")
    if path == name and (":" in name or not ("/" in name or "\\" in name or Path(name).is_dir())):
        return name
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {as_text(path)}: expected a run folder, a pretrained model of timm such as "
            "resnet50.a1_in1k, or hf-hub:NAME"
        )
    return f"{_FOLDER}:{folder}"


def create_model(
    name: str, shown: str | None = None, kind: str = "model", *, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """As `timm.create_model`, with everything that comes from elsewhere checked.

    Args:
        name: Of the model.
        shown: What to call it in an error, where it is not its name.
        kind: Likewise.
        pretrained: Load its weights.
        **kwargs: Further keywords of `timm.create_model`.

    Raises:
        UserError: If it is not available.
    """
    shown = f"{kind} {as_text(shown or name)}"
    source, place = _source(name), name.partition(":")[2]
    if source in _HUB:
        return _create_from_hub(place, shown, pretrained, kwargs)
    if source == _FOLDER:
        folder = Path(place)
        if not folder.is_dir():
            raise UserError(f"{shown}: no such folder")
        _check_file(folder / CONFIG, shown)
        if pretrained:
            _check_file(folder / WEIGHTS, shown)
        return _create_from_folder(folder, shown, pretrained, kwargs)
    if pretrained and is_model(split_model_name_tag(name)[0]):
        return _create_from_tag(name, shown, kwargs)
    return _build(name, shown, _ERRORS, pretrained=pretrained, **kwargs)


def _source(name: str) -> str | None:
    source, colon, _ = name.partition(":")
    return source.lower() if colon and source.lower() in (*_HUB, _FOLDER) else None


def _check_file(path: Path, shown: str) -> None:
    if not path.is_file():
        raise UserError(f"{shown} has no {path.name}: expected the folder of a finished run")


def _create_from_hub(place: str, shown: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    repo, revision = split_revision(place)
    cache_dir = kwargs.pop("cache_dir", None)
    config = fetch(repo, revision, CONFIG, cache_dir)
    # the commit that was just found: weights that somebody pushes meanwhile cannot meet the older configuration
    commit = config.parent.name
    read_model_config(config, shown)  # before the weights, which are large
    if pretrained:
        fetch(repo, commit, WEIGHTS, cache_dir)
    # from the files that were compared: timm would ask the Hub again, and for pickled weights where it fails
    model = _create_from_folder(config.parent, shown, pretrained, kwargs)
    pretrained_cfg_of(model).pop("file", None)
    pretrained_cfg_of(model).update(source="hf-hub", hf_hub_id=f"{repo}@{commit}")
    return model


def _create_from_folder(folder: Path, shown: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    config = read_model_config(folder / CONFIG, shown)
    name = f"{_FOLDER}:{folder}"
    _check_size(name, shown, folder / WEIGHTS if pretrained else None, kwargs)
    # the keywords are a stranger's: what they raise within timm has no end
    model = _build(name, shown, (Exception,), pretrained=pretrained, **kwargs)
    record_arguments(model, **{**config.content.get("model_args", {}), **kwargs})
    own = pretrained_cfg_of(model)
    if config.label_names is not None and getattr(model, "num_classes", None) == len(config.label_names):
        own["label_names"] = config.label_names
    for key in ("mean", "std"):  # a configuration may hold one for all channels
        own[key] = tuple(own[key]) * (own["input_size"][0] if len(own[key]) == 1 else 1)
    return model


def _create_from_tag(name: str, shown: str, kwargs: dict[str, Any]) -> nn.Module:
    """Of a registered name: its weights are fetched and compared, and given to timm as a file."""
    architecture, tag = split_model_name_tag(name)
    given = kwargs.get("pretrained_cfg") or tag or None
    overlay = kwargs.pop("pretrained_cfg_overlay", None)
    try:
        cfg = resolve_pretrained_cfg(architecture, given, overlay).to_dict()
        origin, place = pretrained_source(cfg)
    except _ERRORS as error:
        raise UserError(f"{shown} cannot be loaded: {_said(error)}") from error
    if origin != "hf-hub":
        return _build(name, shown, _ERRORS, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    repo, file = place if isinstance(place, tuple) else (place, WEIGHTS)
    if not str(file).endswith(".safetensors"):
        raise UserError(f"{shown} has its weights in {file} alone: timm_asap takes safetensors, never pickled weights")
    repo, revision = split_revision(repo)
    path = fetch(repo, revision, file, kwargs.get("cache_dir"))
    overlay = {**(overlay or {}), "file": str(path), "source": None}
    model = _build(name, shown, _ERRORS, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    pretrained_cfg_of(model).pop("file", None)
    pretrained_cfg_of(model).update({key: cfg[key] for key in ("file", "source", "custom_load") if key in cfg})
    return model


def _check_size(name: str, shown: str, weights: Path | None, kwargs: dict[str, Any]) -> None:
    """Build it without data first: what it would take is known before it is taken."""
    model = _build(name, shown, (Exception,), on_meta=True, pretrained=False, **kwargs)
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    what = f"{shown}: the network that its config.json describes"
    check_memory(size if weights is None else size + weights.stat().st_size, what)
    input_size = pretrained_cfg_of(model).get("input_size")
    if input_size is not None:
        check_memory(image_memory(input_size), f"{what}, for one image of {' x '.join(map(str, input_size))},")


def _build(
    name: str, shown: str, errors: tuple[type[Exception], ...], on_meta: bool = False, **kwargs: Any
) -> nn.Module:
    def build() -> nn.Module:
        return timm.create_model(name, **kwargs)

    try:
        model = build_on_meta(build) if on_meta else build()
    except UserError:
        raise
    except errors as error:
        if "huggingface_hub" in str(error) and (fault := hub_fault()) is not None:
            raise UserError(f"{shown} cannot be loaded: {fault}") from error
        raise UserError(f"{shown} cannot be loaded: {_said(error)}") from error
    record_arguments(model, **kwargs)
    return model


def _said(error: BaseException) -> str:
    """The first line of an error, and the second where the first only announces it, as that of `load_state_dict`."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return as_text(said if len(said) <= 300 else f"{said[:297]}...")
