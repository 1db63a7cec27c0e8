"""A trained network by its name, its weights compared with what the Hub states about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import get_pretrained_cfg
from timm.models._builder import _resolve_pretrained_source
from torch import nn

from timm_asap.errors import UserError
from timm_asap.hub.client_errors import one_line
from timm_asap.hub.digests import check_download
from timm_asap.hub.names import split_revision
from timm_asap.zoo import check_model_name, create_model

__all__ = ["load"]

_WEIGHTS = "model.safetensors"


def load(name: str, **kwargs: Any) -> nn.Module:
    """Load a trained network, ready to classify.

    `timm.create_model(name, pretrained=True)` gives the same network. This also sees that the weights are those that
    the Hub states (by sha256; the client alone accepts wrong bytes of the right size), takes safetensors alone, and
    says in one line what is wrong. What was loaded once loads offline.

    Args:
        name: `hf-hub:user/name`, `hf-hub:user/name@revision`, `local-dir:FOLDER`, or an architecture of timm or of
            timm_asap with its tag: `resnet50_asap.a1_in1k`.
        **kwargs: Keywords of `timm.create_model`, such as `num_classes` or `features_only`.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        UserError: If there is no such model, it cannot be had, or its weights are not those that the Hub states.

    Example:
        >>> import timm_asap
        >>> model = timm_asap.load("hf-hub:you/resnet20_lowres_asap.fashion_mnist")  # doctest: +SKIP
    """
    source, colon, rest = name.partition(":")
    if colon and source in ("hf-hub", "hf_hub"):
        return _load_from_hub(rest, kwargs)
    if colon and source == "local-dir":
        _check_folder(rest)
        return create_model(name, pretrained=True, **kwargs).eval()
    if colon or "/" in name:
        raise UserError(f"model {name!r}: expected hf-hub:user/name, local-dir:FOLDER or architecture.tag")
    check_model_name(name, pretrained=True)
    load_from, place = _resolve_pretrained_source(get_pretrained_cfg(name).to_dict())
    if load_from == "hf-hub":
        repo, file = place if isinstance(place, tuple) else (place, _WEIGHTS)
        repo, revision = split_revision(repo)
        _fetch(repo, revision, file, kwargs.get("cache_dir"))
    return create_model(name, pretrained=True, **kwargs).eval()


def _load_from_hub(place: str, kwargs: dict[str, Any]) -> nn.Module:
    repo, revision = split_revision(place)
    config = _fetch(repo, revision, "config.json", kwargs.get("cache_dir"))
    # the commit that was just found: weights that somebody pushes meanwhile cannot meet the older configuration
    commit = config.parent.name
    _fetch(repo, commit, _WEIGHTS, kwargs.get("cache_dir"))
    return create_model(f"hf-hub:{repo}@{commit}", f"hf-hub:{place}", pretrained=True, **kwargs).eval()


def _fetch(repo: str, revision: str | None, file: str, cache_dir: str | Path | None) -> Path:
    """Download a file unless it is cached, and check it."""
    with one_line(repo, revision):
        try:
            path = Path(hf_hub_download(repo, file, revision=revision, cache_dir=cache_dir))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            if file != _WEIGHTS:
                raise UserError(f"{repo} has no {file}: expected a model of timm") from error
            raise UserError(
                f"{repo} has no {_WEIGHTS}: timm_asap.load takes safetensors alone; timm.create_model also takes "
                "pickled weights, which can run code"
            ) from error
        check_download(path, repo)
    return path


def _check_folder(folder: str) -> None:
    if not Path(folder).is_dir():
        raise UserError(f"local-dir:{folder}: no such folder")
    for file in ("config.json", _WEIGHTS):
        if not (Path(folder) / file).is_file():
            raise UserError(f"local-dir:{folder} has no {file}: expected the folder of a finished run")
