"""A model's config.json, checked before anything is built of it: it may come from anybody.

The keys are those that timm writes and reads (timm/models/_hub.py and `PretrainedCfg`). What fits no network, names
files or code, or would change which weights are loaded is refused with the key, what was expected and what came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import timm
from timm.data.transforms import str_to_interp_mode
from timm.models import is_model, is_model_in_modules

from timm_asap._timm import PretrainedCfg
from timm_asap.errors import UserError, unknown_name
from timm_asap.text import as_text

__all__ = ["MAX_SIDE", "ModelConfig", "name_import", "read_model_config"]

# The modules whose networks timm knows only after this package was imported.
_OWN_MODULES = ("asap_twins", "lowres")

MAX_SIDE = 4096
"""Pixels; the largest input of timm's own configurations is 1,024."""
_MAX_BYTES = 32 * 2**20  # 21,841 classes with a long description each take 4 MB
_MAX_CLASSES = 10_000_000
_MAX_NUMBER = 2**31
_MAX_BLOCKS = 4096
_MAX_NAME = 1000
_MAX_DIGITS = 10  # of the number of a class; int() refuses thousands of them

_Check = tuple[str, Callable[[Any], bool]]


@dataclass(frozen=True)
class ModelConfig:
    """What a config.json says, checked.

    Args:
        architecture: A name that timm knows.
        num_classes: 0 for a network without a head; None where it does not say.
        label_names: One for each class, in their order; None where it names none.
        content: The whole file.
    """

    architecture: str
    num_classes: int | None
    label_names: tuple[str, ...] | None
    content: Mapping[str, Any]


def read_model_config(path: Path, shown: str) -> ModelConfig:
    """Read and check a config.json.

    Args:
        path: The file.
        shown: What to call the model in an error.

    Raises:
        UserError: If it is no JSON, or a key of it is not what timm writes there; names the key, what was expected and
            what came.
    """
    content = _read(path, shown)
    _check_leaves(content, shown)
    _check_keys(content, _TOP, "", shown)
    if "architecture" not in content:
        raise UserError(f"{shown}: config.json has no architecture: expected the configuration of a model of timm")
    if not is_model(content["architecture"]):
        raise UserError(f"{shown}: config.json: {unknown_name('architecture', content['architecture'], _models())}")
    # older files have one level alone
    own = content.get("pretrained_cfg", {key: value for key, value in content.items() if key in _PRETRAINED})
    _check_keys(own, _PRETRAINED, "pretrained_cfg." if "pretrained_cfg" in content else "", shown)
    if "pretrained_cfg" in content and (unknown := own.keys() - {field.name for field in fields(PretrainedCfg)}):
        raise UserError(f"{shown}: config.json: {unknown_name('key of pretrained_cfg', min(unknown), _PRETRAINED)}")
    args = content.get("model_args", {})
    _check_args(args, shown)
    classes = content.get("num_classes", own.get("num_classes"))
    _check_channels(own, args, shown)
    given = args.get("num_classes")
    if given is not None and classes is not None and given != classes:
        _refuse(shown, "model_args.num_classes", f"{classes}, as num_classes says", given)
    names = _label_names(content, own, classes, shown)
    return ModelConfig(content["architecture"], given if classes is None else classes, names, content)


def name_import(config: dict[str, Any]) -> None:
    """Say in a configuration that timm knows its architecture only after `import timm_asap`, where that is so.

    timm and transformers leave the key alone; it is for whoever meets "Unknown model" and opens the file.

    Args:
        config: The content of a config.json, changed in place.
    """
    if is_model_in_modules(config["architecture"], _OWN_MODULES):
        config["requires"] = "import timm_asap"


def _models() -> list[str]:
    return timm.list_models()


# reading


def _read(path: Path, shown: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise UserError(f"{shown}: config.json holds {constant}, which is no JSON: expected finite numbers")

    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise UserError(f"{shown}: config.json: expected at most {_MAX_BYTES:,} bytes, got {size:,}")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise UserError(f"{shown}: config.json cannot be read: {error.strerror or error}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of thousands of digits, nested too deep
        what = "is nested too deeply" if isinstance(error, RecursionError) else as_text(error)
        raise UserError(f"{shown}: config.json cannot be read as JSON: {what}") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown}: config.json: expected an object, as timm writes it, got {_short(content)}")
    return content


def _check_leaves(content: dict[str, Any], shown: str) -> None:
    """Numbers that no tensor takes, and texts that no file takes, are refused wherever they stand."""
    for place, value in _leaves(content):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{shown}: config.json: {place}: expected a finite number, got {value}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{shown}: config.json: {place}: expected a number of 64 bits, got one of more")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UserError(f"{shown}: config.json: {place}: expected Unicode text, got half a character") from None


def _leaves(node: Any) -> Iterator[tuple[str, Any]]:
    todo = [("", node)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                inside = f"{place}.{as_text(key)}" if place else as_text(key)
                yield inside, key
                todo.append((inside, item))
        elif isinstance(value, list):
            todo += [(f"{place}[{number}]", item) for number, item in enumerate(value)]
        else:
            yield place, value


# what a key may hold


def _is_whole(value: Any, low: int = 0, high: int = _MAX_NUMBER) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list(value: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(check, value))


def _is_size(value: Any) -> bool:
    return (
        _is_list(value, _is_whole)
        and len(value) == 3
        and _is_whole(value[0], 1, MAX_SIDE)
        and all(_is_whole(side, 1, MAX_SIDE) for side in value[1:])
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME


def _is_names(value: Any) -> bool:
    """A list, or, where numbers are missing, an object from number to name."""
    if isinstance(value, dict):
        return all(key.isdecimal() and len(key) <= _MAX_DIGITS for key in value) and all(map(_is_name, value.values()))
    return _is_list(value, _is_name)


def _is_path(value: Any) -> bool:
    """Of a layer, or several."""
    return _is_name(value) or (_is_list(value, _is_name) and len(value) > 0)


def _is_interpolation(value: Any) -> bool:
    try:
        return isinstance(value, str) and (value == "random" or str_to_interp_mode(value) is not None)
    except KeyError:
        return False


_TEXT: _Check = ("a text", lambda value: isinstance(value, str))
_BOOL: _Check = ("true or false", lambda value: isinstance(value, bool))
_OBJECT: _Check = ("an object", lambda value: isinstance(value, dict))
_SIZE: _Check = (f"three whole numbers, [channels, height, width], each from 1 to {MAX_SIDE}", _is_size)
_POOL: _Check = (
    "two whole numbers above 0",
    lambda value: _is_list(value, lambda n: _is_whole(n, 1)) and len(value) == 2,
)
_CROP: _Check = ("a number above 0 and up to 2", lambda value: _is_number(value) and 0 < value <= 2)
_MEAN: _Check = ("a list of numbers", lambda value: _is_list(value, _is_number) and len(value) > 0)
_STD: _Check = (
    "a list of numbers above 0",
    lambda value: _is_list(value, lambda n: _is_number(n) and n > 1e-12) and len(value) > 0,
)
_CLASSES: _Check = (
    f"a whole number from 0 to {_MAX_CLASSES:,}",
    lambda value: _is_whole(value, 0, _MAX_CLASSES),
)
_NAMES: _Check = (
    f"a list of names, each a text of 1 to {_MAX_NAME} characters, or an object from the number of a class to its name",
    _is_names,
)
_LAYER: _Check = ("the name of a layer, or a list of such names", _is_path)
_NO_FILE: _Check = ("nothing: a configuration names no other file", lambda value: False)

_TOP: dict[str, _Check] = {
    "architecture": ("the name of an architecture of timm, a text", _is_name),
    "num_classes": _CLASSES,
    "global_pool": _TEXT,
    "label_names": _NAMES,
    "labels": _NAMES,
    "label_descriptions": ("an object from name to text", lambda value: isinstance(value, dict)),
    "pretrained_cfg": _OBJECT,
    "model_args": _OBJECT,
}
_PRETRAINED: dict[str, _Check] = {
    "architecture": _TEXT,
    "tag": _TEXT,
    "input_size": _SIZE,
    "test_input_size": _SIZE,
    "min_input_size": _SIZE,
    "fixed_input_size": _BOOL,
    "interpolation": ("bilinear, bicubic, nearest, lanczos, box, hamming or random", _is_interpolation),
    "crop_pct": _CROP,
    "test_crop_pct": _CROP,
    "crop_mode": ("center, squash or border", lambda value: value in ("center", "squash", "border")),
    "mean": _MEAN,
    "std": _STD,
    "num_classes": _CLASSES,
    "label_offset": ("a whole number from 0", _is_whole),
    "label_names": _NAMES,
    "label_descriptions": ("an object from name to text", lambda value: isinstance(value, dict)),
    "pool_size": _POOL,
    "test_pool_size": _POOL,
    "first_conv": _LAYER,
    "classifier": _LAYER,
    # in timm these lead to other files than the one that was checked, some of them pickled
    "custom_load": ("false: weights as timm saves them", lambda value: value is False),
    "hf_hub_filename": _NO_FILE,
    "state_dict": _NO_FILE,
}
# Everything else timm leaves out where it is null.
_NEVER_NULL = frozenset(
    {
        *("architecture", "num_classes", "pretrained_cfg", "model_args"),
        *("input_size", "mean", "std", "interpolation", "crop_pct"),
    }
)

# Keywords of timm.create_model that say where weights come from, or how strictly they are taken.
_NO_ARGS = frozenset(
    {
        *(
            "model_name",
            "pretrained",
            "pretrained_cfg",
            "pretrained_cfg_overlay",
            "pretrained_strict",
            "checkpoint_path",
        ),
        *(
            "pretrained_filter_fn",
            "pretrained_model_args",
            "cache_dir",
            "feature_cls",
            "out_indices",
            "device",
            "dtype",
        ),
    }
)
_BLOCKS = frozenset({"depth", "depths", "layers", "num_blocks", "repeats", "block_repeats", "num_layers"})
_ARGS: dict[str, _Check] = {
    "num_classes": _CLASSES,
    "in_chans": (f"a whole number from 1 to {MAX_SIDE}", lambda value: _is_whole(value, 1, MAX_SIDE)),
    "global_pool": _TEXT,
    "img_size": (
        f"a whole number from 1 to {MAX_SIDE}, or two",
        lambda value: (
            _is_whole(value, 1, MAX_SIDE)
            or (_is_list(value, lambda side: _is_whole(side, 1, MAX_SIDE)) and len(value) == 2)
        ),
    ),
    **dict.fromkeys(
        ("drop_rate", "drop_path_rate", "drop_block_rate", "proj_drop_rate", "attn_drop_rate"),
        ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    ),
    "features_only": ("false: a whole classifier, not its feature maps alone", lambda value: value is False),
}


def _check_keys(node: Mapping[str, Any], checks: Mapping[str, _Check], above: str, shown: str) -> None:
    for key, (expected, is_right) in checks.items():
        if key not in node or (node[key] is None and key not in _NEVER_NULL):
            continue
        if not is_right(node[key]):
            _refuse(shown, above + key, expected, node[key])


def _check_args(args: Mapping[str, Any], shown: str) -> None:
    given = {key: value for key, value in args.items() if value is not None}  # timm leaves these out, too
    _check_keys(given, _ARGS, "model_args.", shown)
    for key, value in args.items():
        if key in _NO_ARGS:
            _refuse(shown, f"model_args.{as_text(key)}", "nothing: it would decide which weights are loaded", value)
        numbers = [item for _, item in _leaves(value) if isinstance(item, int) and not isinstance(item, bool)]
        if key in _BLOCKS and sum(map(abs, numbers)) > _MAX_BLOCKS:
            _refuse(shown, f"model_args.{key}", f"at most {_MAX_BLOCKS} blocks", value)
        if any(abs(number) > _MAX_NUMBER for number in numbers):
            _refuse(shown, f"model_args.{as_text(key)}", f"numbers up to {_MAX_NUMBER:,}", value)


def _check_channels(own: Mapping[str, Any], args: Mapping[str, Any], shown: str) -> None:
    """Mean and std are one for each channel, or one for all."""
    channels = args.get("in_chans") or own.get("input_size", PretrainedCfg.input_size)[0]
    for key in ("mean", "std"):
        values = own.get(key, list(getattr(PretrainedCfg, key)))
        if len(values) not in (1, channels):
            _refuse(shown, f"pretrained_cfg.{key}", f"{channels} numbers, one for each channel", values)


def _label_names(
    content: Mapping[str, Any], own: Mapping[str, Any], classes: int | None, shown: str
) -> tuple[str, ...] | None:
    key = next((key for key in ("label_names", "labels") if content.get(key) is not None), "pretrained_cfg.label_names")
    names = content.get(key, own.get("label_names"))
    if not names:
        return None
    if isinstance(names, dict):
        by_number = {int(number): name for number, name in names.items()}
        if sorted(by_number) != list(range(classes or len(by_number))):
            return None  # some classes have no name
        return tuple(by_number[number] for number in range(len(by_number)))
    if classes is not None and len(names) != classes:
        raise UserError(
            f"{shown}: config.json names {len(names)} classes in {key}: expected {classes}, its num_classes"
        )
    return tuple(names)


def _refuse(shown: str, key: str, expected: str, value: Any) -> NoReturn:
    raise UserError(f"{shown}: config.json: {key}: expected {expected}, got {_short(value)}")


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = str(type(value).__name__)
    return as_text(text if len(text) <= 60 else f"{text[:57]}...")
