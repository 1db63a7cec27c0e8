"""The records of a run that its card is made of, each of the type expected: a changed file is refused by its key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from timm.models import is_model_in_modules

from timm_asap._io import read_json
from timm_asap._types import present
from timm_asap.data.splits import SMALL_SIDE_PX
from timm_asap.data.tables import BUILDERS
from timm_asap.errors import UserError
from timm_asap.evaluation.models import OpenedModel, open_model
from timm_asap.evaluation.record import RECORD, Record, read_record
from timm_asap.hub.cards.base_model import Origin, find_origin
from timm_asap.hub.cards.comparison import COMPARISON, check_comparison
from timm_asap.hub.cards.privacy import cut_paths
from timm_asap.provenance import hub_id_of
from timm_asap.text import as_text
from timm_asap.training.run_folder import ADAPTATION, RunFolder
from timm_asap.zoo import is_twin, plain_name

__all__ = ["RunRecords", "check_facts", "check_result", "is_run", "read_records"]


_Check = tuple[str, Callable[[Any], bool]]


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _or_none(check: _Check) -> _Check:
    return f"{check[0]}, or null", lambda value: value is None or check[1](value)


def _list_of(check: _Check) -> _Check:
    return f"a list, each {check[0]}", lambda value: isinstance(value, list) and all(map(check[1], value))


_TEXT: _Check = ("a text", lambda value: isinstance(value, str))
_WHOLE: _Check = ("a whole number from 0", _is_whole)
_NUMBER: _Check = ("a number", _is_number)
_PERCENT: _Check = ("a number from 0 to 100", lambda value: _is_number(value) and 0 <= value <= 100)
_TRUTH: _Check = ("true or false", lambda value: isinstance(value, bool))
_OBJECT: _Check = ("an object", lambda value: isinstance(value, dict))
_TEXTS: _Check = (
    "an object of texts",
    lambda value: isinstance(value, dict) and all(item is None or isinstance(item, str) for item in value.values()),
)

_FACTS = {
    "command": _TEXT,
    "versions": _TEXTS,
    "hardware": _TEXT,
    "processes": _WHOLE,
    "precision": _TEXT,
    "model": _OBJECT,
    "data": _OBJECT,
}
_DATA = {
    "name": _TEXT,
    "hub_id": _or_none(_TEXT),
    "source": _TEXT,
    "frame": _or_none(_list_of(_WHOLE)),
    "small": _or_none(_TRUTH),
    "classes": _or_none(_WHOLE),
    "label_names": _or_none(_list_of(_TEXT)),
    "train_images": _or_none(_WHOLE),
    "val_images": _or_none(_WHOLE),
    "val_name": _or_none(_TEXT),
    "test_images": _or_none(_WHOLE),
    "test_name": _or_none(_TEXT),
}
_RESULT = {
    "epoch": _WHOLE,
    "test_loss": _NUMBER,
    "test_accuracy": _PERCENT,
    "test_images": _WHOLE,
    "chosen_by": _TEXT,
    "weights_sha256": _TEXT,
}


def check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """See that run.json, or the part of it that is there, holds what was written.

    Args:
        facts: Its content; older versions wrote less.
        path: The file, for the error.

    Raises:
        UserError: Of a key that is there, its value is of another type: the key, what was expected and what came.
    """
    _check(facts, _FACTS, path, "")
    _check(facts.get("data", {}), _DATA, path, "data.")


def check_result(result: Mapping[str, Any], path: Path) -> None:
    """As `check_facts`, for result.json."""
    _check(result, _RESULT, path, "")


def _check(part: Mapping[str, Any], checks: Mapping[str, _Check], path: Path, above: str) -> None:
    for key, (expected, is_right) in checks.items():
        if key in part and not is_right(part[key]):
            came = as_text(part[key])
            raise UserError(
                f"{path} is damaged: {above}{key}: expected {expected}, got {came if len(came) <= 60 else came[:57]}"
            )


_TRAINED = ("config.yaml", "run.json", "metrics.jsonl", "result.json", "config.json", "model.safetensors")
_ADAPTED = ("config.yaml", "run.json", "metrics.jsonl", ADAPTATION, "config.json", "model.safetensors")
_HEALED = ("heal.json", "config.json", "model.safetensors")

# Data sets that are called by the kind of their files, and what their source says then.
_KINDS = frozenset({"idx", *BUILDERS})
_OF_A_FOLDER = " of the folder "

# Modules of this package that register architectures: without it, timm does not know their names.
_OWN_MODULES = ("asap_twins", "lowres")


@dataclass(frozen=True, eq=False)
class RunRecords:
    """All that is known of a run. Paths in texts are cut to their last part.

    Args:
        folder: The run folder.
        model: Its network.
        data: What it was trained, healed or adapted with: name, hub_id, source, classes, test_name and more.
        config: config.yaml; None for a model that was only healed.
        facts: run.json; likewise.
        epochs: The lines of metrics.jsonl; likewise none.
        result: result.json; likewise.
        healing: heal.json, where there is one.
        adaptation: adapt.json, where there is one; config, result and healing are then None.
        evaluation: evaluation.json, where it was measured on these weights.
        evaluation_is_stale: Whether there is one of other weights.
        comparison: comparison.json, where there is one and an evaluation.
        origin: The weights that it started from; None for random ones.
        plots: Pictures in the folder `plots`, by name.
    """

    folder: Path
    model: OpenedModel
    data: Mapping[str, Any]
    config: Mapping[str, Any] | None
    facts: Mapping[str, Any] | None
    epochs: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any] | None
    healing: Mapping[str, Any] | None
    adaptation: Mapping[str, Any] | None
    evaluation: Record | None
    evaluation_is_stale: bool
    comparison: Mapping[str, Any] | None
    origin: Origin | None
    plots: tuple[str, ...]

    @property
    def name(self) -> str:
        """Architecture and data, as timm writes a model and its tag."""
        return f"{self.model.architecture}.{Path(self.data_name).name}"

    @property
    def data_name(self) -> str:
        """What to call the data: a folder of files, which have no name, by its own."""
        return self.data["source"].rpartition(_OF_A_FOLDER)[2] if self._is_nameless else self.data["name"]

    @property
    def data_phrase(self) -> str:
        """The same within a sentence that has not told yet what they are."""
        return self.data["source"] if self._is_nameless else self.data["name"]

    @property
    def _is_nameless(self) -> bool:
        return self.data["name"] in _KINDS and _OF_A_FOLDER in self.data["source"]

    @property
    def shown_folder(self) -> str:
        """The run folder in commands for others: without the folders above it that only its owner has."""
        outside = self.folder.is_absolute() or ".." in self.folder.parts or not self.folder.name
        return self.folder.resolve().name if outside else self.folder.as_posix()

    @property
    def has_small_images(self) -> bool:
        """Whether the images are small and keep their size; older records say so by what the network takes alone."""
        small = self.data.get("small")
        return max(self.model.pixels.size[1:]) <= SMALL_SIDE_PX if small is None else bool(small)

    @property
    def figure(self) -> str | None:
        """The plot that a reader sees first: what was measured, or else how training went."""
        names = ("summary.png", "learning_curves.png")
        return next((f"plots/{name}" for name in names if name in self.plots), None)

    @property
    def is_twin(self) -> bool:
        """Whether the network is an alias-free twin."""
        return is_twin(self.model.architecture)

    @property
    def plain(self) -> str:
        """The plain architecture."""
        return plain_name(self.model.architecture)

    @property
    def needs_import(self) -> bool:
        """Whether timm knows the architecture only after `import timm_asap`."""
        return is_model_in_modules(self.model.architecture, _OWN_MODULES)


def read_records(folder: Path, *, with_comparison: bool = True) -> RunRecords:
    """Read a run.

    Args:
        folder: What train.py, `timm-asap heal` or `timm-asap adapt` wrote.
        with_comparison: Whether to read comparison.json.

    Raises:
        UserError: If a record is missing, damaged or holds NaN, or the comparison is of an older evaluation.
    """
    kind = _check_files(folder)
    config = facts = result = healing = adaptation = None
    epochs: list[dict[str, Any]] = []
    if kind == "adapted":
        epochs = [epoch for epoch in _read_epochs(folder) if epoch["epoch"] > 0]  # 0 is the state before
        facts, adaptation = read_json(folder / "run.json"), read_json(folder / ADAPTATION)
        if "after" not in adaptation:
            raise UserError(
                f"{folder} holds no finished run: continue it with timm-asap adapt --output {folder} --resume"
            )
    elif kind == "trained":
        config, epochs = _read_config(folder), _read_epochs(folder)
        facts, result = read_json(folder / "run.json"), read_json(folder / "result.json")
    if kind != "adapted" and (folder / "heal.json").is_file():
        healing = read_json(folder / "heal.json")
    if facts is not None:
        check_facts(facts, folder / "run.json")
    if result is not None:
        check_result(result, folder / "result.json")
    model = open_model(f"local-dir:{folder}")
    if result is not None and result.get("weights_sha256", model.weights_sha256) != model.weights_sha256:
        raise UserError(
            f"{folder}/result.json was measured on other weights than {folder}/model.safetensors: "
            f"`python train.py --output {folder} --resume` measures these"
        )
    if config is not None:
        origin = find_origin(config["model"], config["pretrained"], config["model_kwargs"])
    else:
        started_from = healing["model"] if healing is not None else _read_config(folder)["model"]
        origin = find_origin(started_from, pretrained=True)
    evaluation, is_stale = _read_evaluation(folder, model)
    comparison = None
    if with_comparison and evaluation is not None and (folder / COMPARISON).is_file():
        comparison = read_json(folder / COMPARISON)
        check_comparison(comparison, evaluation, folder)
    return RunRecords(
        folder=folder,
        model=model,
        data=cut_paths(
            facts["data"] if facts is not None else _healed_with(present(healing, "record of healing"), model)
        ),
        config=cut_paths(config),
        facts=cut_paths(facts),
        epochs=tuple(epochs),
        result=cut_paths(result),
        healing=cut_paths(healing),
        adaptation=cut_paths(adaptation),
        evaluation=evaluation,
        evaluation_is_stale=is_stale,
        comparison=cut_paths(comparison),
        origin=origin,
        # a link is not published, and would be a gap in the card
        plots=tuple(sorted(path.name for path in (folder / "plots").glob("*.png") if not path.is_symlink())),
    )


def is_run(folder: Path) -> bool:
    """Whether a folder holds a finished run, which has a card."""
    return any(all((folder / name).is_file() for name in names) for names in (_TRAINED, _ADAPTED, _HEALED))


def _check_files(folder: Path) -> str:
    """See that a run is complete; whether it was "trained", "healed" or "adapted"."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: expected a run folder")
    if (folder / ADAPTATION).is_file():
        kind, needed = "adapted", _ADAPTED
    elif (folder / "heal.json").is_file() and not (folder / "config.yaml").is_file():
        kind, needed = "healed", _HEALED
    else:
        kind, needed = "trained", _TRAINED
    for name in needed:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no finished run: {name} is missing; expected what train.py, timm-asap heal or "
                "timm-asap adapt wrote"
            )
    return kind


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}/config.yaml cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.yaml: expected 'key: value' lines, got a {type(config).__name__}")
    return config


def _read_epochs(folder: Path) -> list[dict[str, Any]]:
    try:
        epochs = RunFolder(folder).metrics()
    except json.JSONDecodeError as error:
        raise UserError(f"{folder}/metrics.jsonl cannot be read as JSON: {error}") from error
    if not epochs:
        raise UserError(f"{folder} holds no finished run: metrics.jsonl has no line")
    return epochs


def _read_evaluation(folder: Path, model: OpenedModel) -> tuple[Record | None, bool]:
    """The evaluation of these weights, and whether there is one of others."""
    if not (folder / RECORD).is_file():
        return None, False
    read_json(folder / RECORD)  # refuses NaN
    record = read_record(folder)
    if record.content["model"].get("weights_sha256") != model.weights_sha256:
        return None, True
    return Record(record.path, cut_paths(record.content)), False


def _healed_with(healing: Mapping[str, Any], model: OpenedModel) -> dict[str, Any]:
    """The data of heal.json in the terms of run.json."""
    hub_id = hub_id_of(healing["dataset"])
    return {
        "name": healing["dataset"] if hub_id else Path(healing["dataset"]).name,
        "hub_id": hub_id,
        "source": healing["source"],
        "frame": healing.get("frame", ()),
        "small": healing.get("small"),
        "classes": model.num_classes,
        "test_images": healing["test_images"],
        "test_name": healing["test_name"],
    }
