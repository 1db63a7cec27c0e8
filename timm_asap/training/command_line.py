"""From a command line to a `TrainConfig`, and back; every mistake becomes one line."""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from timm_asap._io import cut_path, disk_errors
from timm_asap.command_line import flag, given_fields, read_flags, renamed_flags
from timm_asap.errors import UserError
from timm_asap.training.config import ACTIONS, Given, TrainConfig, find_recipe, read_recipe, shipped_recipes
from timm_asap.training.settle import settle_flags, without_other_data

# Where a moved or prolonged run may differ from what it was started as.
_MAY_CHANGE_ON_RESUME = frozenset(
    {"epochs", "num_workers", "data_dir", "output", "checkpoint_steps", "keep_checkpoints", "tracker"}
)

# Flags that do not say what to train.
_NOT_A_RUN = _MAY_CHANGE_ON_RESUME | ACTIONS


def parse(argv: Sequence[str], prog: str | None = None) -> TrainConfig:
    """Read a command line: flags come first, then the recipe, then the defaults of `TrainConfig`.

    With `--resume` the configuration that the run folder holds takes the place of the recipe.

    Args:
        argv: The words after the program's name.
        prog: The program's name in its help; by default what was started.

    Raises:
        UserError: If a flag, a value or a recipe is wrong, flags do not fit each other, or there is no run to resume
            and nothing says which one to start.
        SystemExit: With code 0, after printing the help that was asked for.
    """
    argv = renamed_flags(argv)
    first = _first_look(argv)
    recipe = _recipe_for(first)
    defaults = _from_recipe(recipe) if recipe else TrainConfig()
    flags = given_fields(argv, TrainConfig)
    own: frozenset[str] = frozenset()
    if recipe is not None and first.recipe and first.recipe not in shipped_recipes():
        own = frozenset(read_recipe(recipe))
    if first.resume:
        chosen = {name: getattr(first, name) for name in ("model", "dataset", "output") if getattr(first, name)}
        folder = replace(defaults, **chosen).run_folder
        started_as = folder / "config.yaml"
        if started_as.is_file():
            before = _from_recipe(started_as)
            config = _parse_flags(argv, before, prog)
            _refuse_changes(before, config, folder)
            return settle_flags(config.given_as(Given(flags, frozenset())))
        if "output" in flags and not own and first.recipe is None and flags <= _NOT_A_RUN:
            raise UserError(_no_run(folder))
    config = _parse_flags(argv, defaults, prog).given_as(Given(flags, own))
    return settle_flags(without_other_data(config, defaults))


def _no_run(folder: Path) -> str:
    """What to say where there is no run to resume, and nothing says which one to start."""
    with disk_errors(f"{folder.parent} cannot be read"):
        beside = sorted(path.parent for path in folder.parent.glob("*/config.yaml")) if folder.parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, [path.name for path in beside], n=5, cutoff=0.4)
    shown = [folder.parent / name for name in near] or beside[:5]
    runs = f"the runs beside it are {', '.join(map(str, shown))}" if shown else f"{folder.parent} holds no run"
    return (
        f"--resume: there is no run in {folder}, and no other flag says what to train; {runs}: give the folder of a "
        "run, or the flags of a new one"
    )


def program() -> str:
    """The program that was started: `train.py` in a checkout, or `timm-asap train`, which is the same."""
    return "train.py" if Path(sys.argv[0]).name == "train.py" else "timm-asap train"


def command(config: TrainConfig, launcher: str | None = None) -> str:
    """The shortest command line that gives this configuration.

    Paths from the root or the home folder are cut to their last part: a card is read by others.

    Args:
        config: The configuration of a run.
        launcher: What starts several processes, such as torchrun with its options; None for a single one.
    """
    return f"{_started(launcher)} {shlex.join(_to_flags(config))}".strip()


def resume_command(run_folder: Path) -> str:
    """The command line that continues a stopped run, after whatever launched it."""
    return f"{_started(None)} --output {shlex.quote(str(run_folder))} --resume"


def _started(launcher: str | None) -> str:
    script = program() == "train.py"
    if launcher is None:
        return "python train.py" if script else program()
    return f"{launcher} train.py" if script else f"{launcher} -m timm_asap train"


def _to_flags(config: TrainConfig) -> list[str]:
    """The flags in which a configuration differs from the recipe of its data set."""
    shipped = shipped_recipes().get(config.dataset)
    usual = _from_recipe(shipped) if shipped else TrainConfig(dataset=config.dataset)
    values = config.recorded()
    if config.run_folder == replace(usual, model=config.model).run_folder:
        values["output"] = None
    differing = {name: value for name, value in values.items() if value != getattr(usual, name)}
    if config.dataset != TrainConfig.dataset:
        differing = {"dataset": config.dataset, **differing}
    for name in ("dataset", "data_dir", "model", "teacher", "output"):
        if name in differing and differing[name] is not None:
            differing[name] = cut_path(differing[name])
    return _spell(differing)


def _first_look(argv: list[str]) -> argparse.Namespace:
    """What decides where the defaults come from; all else, mistakes included, is left to the full parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--recipe", "--dataset", "--model", "--output"):
        parser.add_argument(name, nargs="?")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction)
    return parser.parse_known_args(argv)[0]


def _recipe_for(first: argparse.Namespace) -> Path | None:
    if first.recipe:
        return find_recipe(first.recipe)
    return shipped_recipes().get(first.dataset or TrainConfig.dataset)


def _from_recipe(path: Path) -> TrainConfig:
    values = read_recipe(path)
    try:
        return read_flags(TrainConfig, _spell(values), program(), TrainConfig(), only=values)
    except UserError as error:
        raise UserError(f"recipe {path}: {error}") from error


def _parse_flags(argv: list[str], defaults: TrainConfig, prog: str | None = None) -> TrainConfig:
    return read_flags(TrainConfig, argv, prog or program(), defaults)


def _refuse_changes(before: TrainConfig, now: TrainConfig, folder: Path) -> None:
    for name, value in before.recorded().items():
        if name not in _MAY_CHANGE_ON_RESUME and getattr(now, name) != value:
            raise UserError(
                f"--resume continues the run in {folder} as it was started: {flag(name)} was {value} there, "
                f"got {getattr(now, name)}; leave the flag out, or give another --output"
            )


def _spell(values: dict[str, Any]) -> list[str]:
    """The flags that set some fields to some values."""
    switches = {f.name for f in fields(TrainConfig) if f.type == "bool"}
    words = []
    for name, value in values.items():
        if name in switches and isinstance(value, bool):
            words.append(flag(name) if value else "--no-" + flag(name)[2:])
        elif isinstance(value, (bool, dict, list)):
            words += [flag(name), json.dumps(value, default=str)]
        else:
            words += [flag(name), str(value)]
    return words
