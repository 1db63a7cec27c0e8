"""Keeps what a conversion did beside a model's weights, and repeats it: for networks that no registry builds again.

A twin of timm is built by its name. Any other converted network is a plain one again after its class has built it anew,
and the weights fit, so that nothing would say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from timm_asap._io import read_json, replace_file, write_json
from timm_asap.conversion.blocks import AlternativeFunction
from timm_asap.conversion.geometry import Geometry, upsampling_geometry
from timm_asap.conversion.report import ConversionReport, DownsamplingLayer, as_record
from timm_asap.conversion.sites import site_of
from timm_asap.conversion.strided import AsapLayer, AsapSpec, attach, is_converted, plain_class
from timm_asap.errors import unknown_name

__all__ = ["conversion_of", "repeat_conversion", "restore", "save"]

#: The file in a folder.
FILE_NAME = "timm_asap.json"
WEIGHTS_NAME = "model.safetensors"


def conversion_of(source: Any) -> dict[str, Any] | None:
    """What was converted, as plain JSON values; None where nothing was.

    Args:
        source: A model, a report of `timm_asap.convert`, a `state_dict()` of a converted model (also one that
            `torch.save` wrote and `torch.load` read), the JSON of a report, or the path of such a file or of a folder
            with a `timm_asap.json` in it.

    Raises:
        TypeError, ValueError: It is none of these.
    """
    if isinstance(source, ConversionReport):
        return json.loads(source.to_json())
    if isinstance(source, nn.Module):
        layers = [(name, module) for name, module in source.named_modules() if is_converted(module)]
        return as_record({name: _entry(module) for name, module in layers}) if layers else None
    if isinstance(source, Mapping) and "converted" in source:
        return dict(source)
    metadata = getattr(source, "_metadata", None)
    if metadata is not None:
        marked = {name: entry["asap"] for name, entry in metadata.items() if "asap" in entry}
        return as_record(marked) if marked else None
    if isinstance(source, Mapping):
        return None  # a state dict that lost its metadata
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return json.loads(source)
    if isinstance(source, (str, Path)):
        path = Path(source) / FILE_NAME if Path(source).is_dir() else Path(source)
        return read_json(path)
    raise TypeError(f"expected a model, a report, a state dict, JSON or a path, got {type(source).__name__}")


def _entry(module: AsapLayer) -> dict[str, Any]:
    return {"becomes": module.asap_mixin.__name__, **module.asap.options._asdict()}


def repeat_conversion(model: nn.Module, source: Any) -> ConversionReport:
    """Convert the modules of a model that were converted in another one, the same way.

    Args:
        model: A plain model of the same class and arguments.
        source: Of `conversion_of`.

    Returns:
        A report of them.

    Raises:
        ValueError: `source` holds no conversion; or the model lacks one of its modules, or has another layer there. The
            model is as before.
    """
    record = conversion_of(source)
    if record is None:
        raise ValueError("like: no conversion in it: nothing of that model was converted, or its metadata is lost")
    modules = dict(model.named_modules())
    plan = [_planned(modules, name, entry) for name, entry in record["converted"].items()]
    for module, spec, mixin, _ in plan:
        if not is_converted(module):
            attach(module, spec, mixin)
    rows = tuple(row for *_, row in plan)
    first = next(iter(record["converted"].values()))
    return ConversionReport(rows, first["layout"], first["window"], first["boundary"], stem="auto")


def _planned(
    modules: dict[str, nn.Module], name: str, entry: dict[str, Any]
) -> tuple[nn.Module, AsapSpec, type[AsapLayer], DownsamplingLayer]:
    """What to do with one module, and its row of the report; nothing is changed yet."""
    if name not in modules:  # what DistributedDataParallel and torch.compile put in front
        name = ".".join(part for part in name.split(".") if part != "_orig_mod")
        name = name.removeprefix("module").removeprefix(".")
    if name not in modules:
        raise ValueError(f"like: {unknown_name('module of this model', name, modules)}")
    mixins = _mixins()
    if entry["becomes"] not in mixins:
        raise ValueError(f"like: {unknown_name('operator', entry['becomes'], mixins)}; update timm_asap")
    module, mixin = modules[name], mixins[entry["becomes"]]
    options = {key: entry[key] for key in _OPTIONS if key in entry}
    site = site_of(module, shrinks=mixin is AlternativeFunction)
    geometry = (site.geometry if site else upsampling_geometry(module)) or Geometry((1, 1), (1, 1))
    spec = AsapSpec(geometry, **options)
    kind, shown = plain_class(module).__name__, name or "the model"
    what = site.what if site else f"{kind} {geometry}" if geometry.strides else kind
    if is_converted(module):
        if (module.asap_mixin, module.asap.options) != (mixin, spec.options):
            raise ValueError(f"like: {shown} is converted already, in another way")
        return module, spec, mixin, DownsamplingLayer(name, what, False, reason="already converted")
    known = site is not None and mixin in site.mixins.values()
    if not known and mixin.__name__ not in ("AliasFreeCalls", "LowPassedAfter", "PoolTransposed"):
        raise ValueError(f"like: {shown} was another layer there: {kind} does not become {mixin.becomes!r}")
    return module, spec, mixin, DownsamplingLayer(name, what, True, mixin.becomes, operator=mixin.__name__)


_OPTIONS = ("window", "boundary", "layout", "upsampling")


def _mixins() -> dict[str, type[AsapLayer]]:
    """Every mixin by name."""
    found: dict[str, type[AsapLayer]] = {}
    waiting = AsapLayer.__subclasses__()
    while waiting:
        mixin = waiting.pop()
        if "asap_plain" not in vars(mixin):
            found[mixin.__name__] = mixin
            waiting += mixin.__subclasses__()
    return found


def save(model: nn.Module, folder: str | Path, weights: bool = True) -> None:
    """Write a converted model's weights and what was converted to a folder, for `restore`.

    Twins of timm need none of it: `timm.models.save_for_hf` and `push_to_hf_hub` keep all there is to know. Where
    another library writes the weights (`save_pretrained` of transformers or segmentation_models_pytorch, a checkpoint
    of Lightning), `weights=False` puts the conversion beside them.

    Args:
        model: A converted model.
        folder: Made where it does not exist. Gets `timm_asap.json` and, with `weights`, `model.safetensors`.
        weights: Whether to write the weights.

    Raises:
        ValueError: Nothing in the model is converted.
        UserError: The disk refuses.

    Examples:
        >>> import tempfile, torch, timm_asap
        >>> def build(): return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        >>> model = build()
        >>> _ = timm_asap.convert(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     timm_asap.save(model, folder)
        ...     again = build()
        ...     _ = timm_asap.restore(again, folder)
        >>> x = torch.randn(1, 3, 8, 8)
        >>> torch.equal(again(x), model(x))
        True
    """
    record = conversion_of(model)
    if record is None:
        raise ValueError("save: nothing in this model is converted; call timm_asap.convert(model) first")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if weights:
        with replace_file(folder / WEIGHTS_NAME) as aside:
            save_model(model, str(aside))
    write_json(folder / FILE_NAME, record)


def restore(model: nn.Module, folder: str | Path) -> ConversionReport:
    """Convert a plain model as the one that `save` wrote was, and load its weights.

    Args:
        model: A model of the same class and arguments, plain or converted alike.
        folder: Written by `save`.

    Returns:
        A report of what was converted.

    Raises:
        ValueError: The conversion is of another model.
        RuntimeError: The weights are.
        UserError: The folder holds no such files.
    """
    report = repeat_conversion(model, Path(folder) / FILE_NAME)
    load_model(model, str(Path(folder) / WEIGHTS_NAME))
    return report
