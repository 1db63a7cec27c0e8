"""The configuration of a training run: one dataclass gives the flags, the help and the YAML recipes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import yaml

from timm_asap._renamed import RENAMED, has_older_keywords
from timm_asap.command_line import Folder, metavar
from timm_asap.errors import UserError, unknown_name
from timm_asap.training.options import (
    AdversarialOptions,
    AugmentationOptions,
    DataOptions,
    ModelOptions,
    OptimizationOptions,
    RuntimeOptions,
)

__all__ = ["ACTIONS", "RECIPE_KEYS", "Given", "TrainConfig"]


_CONCERNS = (ModelOptions, DataOptions, OptimizationOptions, AugmentationOptions, AdversarialOptions, RuntimeOptions)

# What to do with a run, as opposed to what the run is: neither recorded in config.yaml nor taken from a recipe.
ACTIONS = frozenset({"recipe", "resume", "overwrite", "dry_run"})


@dataclass(frozen=True)
class Given:
    """Which fields a user asked for.

    Args:
        flags: By a flag.
        recipe: By a recipe of their own.
    """

    flags: frozenset[str]
    recipe: frozenset[str]

    def may_adapt(self, name: str, *because: str) -> bool:
        """Whether a field may take another value: it is at a default, or a flag overrides the recipe that set it.

        Args:
            name: The field.
            because: The fields that it does not fit.
        """
        overridden = name not in self.recipe or any(other in self.flags for other in because)
        return name not in self.flags and overridden


@has_older_keywords
@dataclass(frozen=True)
class TrainConfig(
    RuntimeOptions, AdversarialOptions, AugmentationOptions, OptimizationOptions, DataOptions, ModelOptions
):
    """Train an image classifier of timm, alias-free or plain, and write one run folder."""

    recipe: Annotated[str, metavar("NAME|FILE")] | None = None
    """A YAML file of these same fields, or the name of a recipe that ships; flags override it. By default the
    recipe named like the data set, where there is one."""
    output: Folder | None = None
    """Folder of the run; by default runs/MODEL.DATASET."""
    resume: bool = False
    """Continue the run in the output folder where it was stopped; start it if there is none."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    dry_run: bool = False
    """Print the resolved configuration and the model's summary, and write nothing."""

    # what no flag sets, and so without a type, which would make a field of it
    _given = None
    _notes = MappingProxyType({})
    _usual = MappingProxyType({})

    def __post_init__(self) -> None:
        for concern in _CONCERNS:
            concern.__post_init__(self)
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite replaces it: give only one of them")
        if self.output is not None and not self.output.strip():
            raise UserError("--output is empty: expected a folder, such as runs/first")

    @property
    def given(self) -> Given:
        """Which fields were asked for; of a configuration made in Python, those that are not at their defaults."""
        if self._given is not None:
            return self._given
        usual = ((f.name, default_of(f)) for f in fields(self))
        return Given(frozenset(name for name, default in usual if getattr(self, name) != default), frozenset())

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each default that was adapted to the run."""
        return tuple(self._notes.values())

    def usual(self, name: str) -> Any:
        """What a field was before it was adapted."""
        return self._usual.get(name, getattr(self, name))

    def given_as(self, given: Given) -> TrainConfig:
        """The same configuration, knowing which fields were asked for."""
        return self._with(self, given, self._notes, self._usual)

    def changed(self, note: str | None = None, **changes: Any) -> TrainConfig:
        """A configuration with other values, which keeps in mind what was asked for.

        Args:
            note: Why a default was adapted, for the user.
            changes: The fields.
        """
        notes, usual = self._notes, self._usual
        if note is not None:  # the last word on the same fields counts
            notes = notes | {" ".join(changes): note}
            usual = {name: getattr(self, name) for name in changes} | usual
        return self._with(replace(self, **changes), self.given, notes, usual)

    @staticmethod
    def _with(config: TrainConfig, given: Given, notes: Mapping[str, str], usual: Mapping[str, Any]) -> TrainConfig:
        config = copy.copy(config)
        # no fields: they are neither flags nor part of the run
        for name, value in (("_given", given), ("_notes", notes), ("_usual", usual)):
            object.__setattr__(config, name, value)
        return config

    @property
    def run_folder(self) -> Path:
        """The folder of the run: `output`, or runs/MODEL.DATASET with path signs taken out of both names."""
        if self.output is not None:
            return Path(self.output)
        return Path("runs") / f"{_as_file_name(self.model)}.{_as_file_name(self.dataset)}"

    def recorded(self) -> dict[str, Any]:
        """The fields that describe the run: what config.yaml holds and a recipe may set."""
        return {name: getattr(self, name) for name in RECIPE_KEYS}


RECIPE_KEYS = tuple(f.name for f in fields(TrainConfig) if f.name not in ACTIONS)


def _as_file_name(name: str) -> str:
    for source in ("hf-hub:", "local-dir:"):
        name = name.removeprefix(source)
    last_part = name.replace("\\", "/").rstrip("/").split("/")[-1]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in last_part)


_SHIPPED = Path(__file__).parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name; `digits` is that of the data set `digits`."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: A recipe that ships, or the path of a YAML file.

    Raises:
        UserError: If there is neither.
    """
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    if name.endswith((".yaml", ".yml")) or "/" in name:
        raise UserError(f"recipe {name}: no such file; the recipes that ship are {', '.join(shipped)}")
    raise UserError(unknown_name("recipe", name, shipped))


def default_of(field: Field) -> Any:
    """What a field of a dataclass has where nothing is given; all fields of options have something."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def read_recipe(path: Path) -> dict[str, Any]:
    """The fields that a recipe sets.

    Args:
        path: A YAML file with a mapping at its top.

    Raises:
        UserError: If the file is no such mapping, or holds a key that no recipe has.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"recipe {path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: expected 'key: value' lines, got a {type(values).__name__}")
    given: dict[str, Any] = values  # what is no text is refused below as an unknown key
    named = {RENAMED.get(key, key): value for key, value in given.items()}
    for key in named:
        if key not in RECIPE_KEYS:
            raise UserError(f"recipe {path}: {unknown_name('key', key, RECIPE_KEYS)}")
    return named


def to_yaml(config: TrainConfig) -> str:
    """The text of config.yaml: a recipe that reads back as the same run."""
    return yaml.safe_dump(config.recorded(), sort_keys=False, allow_unicode=True)
