"""Recipes: YAML files of the fields of `TrainConfig`, some of which ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from timm_asap._renamed import RENAMED
from timm_asap.errors import UserError, unknown_name
from timm_asap.training.config import RECIPE_KEYS, TrainConfig

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
    values = {RENAMED.get(key, key): value for key, value in values.items()}
    for key in values:
        if key not in RECIPE_KEYS:
            raise UserError(f"recipe {path}: {unknown_name('key', key, RECIPE_KEYS)}")
    return values


def to_yaml(config: TrainConfig) -> str:
    """The text of config.yaml: a recipe that reads back as the same run."""
    return yaml.safe_dump(config.recorded(), sort_keys=False, allow_unicode=True)
