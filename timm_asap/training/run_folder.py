"""The folder of one run: which files it has, when it may be written to, and the records in it."""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from timm_asap._io import disk_errors, is_leftover, read_json, remove, replace_file, write_json, write_text
from timm_asap._lock import LOCK_FILES
from timm_asap.errors import UserError
from timm_asap.training.checkpoint import CheckpointFolder

#: The record of an adaptation, beside config.yaml.
ADAPTATION = "adapt.json"

MODEL_FILES = ("model.safetensors", "config.json")
"""The trained network, as timm loads it."""

OTHER_RECORDS = (
    *("heal.json", ADAPTATION, "README.md"),
    *("evaluation.json", "evaluation.safetensors", "evaluation.partial.safetensors", "comparison.json"),
)
"""What commands other than train.py write beside it."""

_FILES = ("run.json", "metrics.jsonl", "result.json", *MODEL_FILES, *OTHER_RECORDS)
_FOLDERS = ("checkpoints", "plots", "publish", "tracker")

# What a run came to: a folder with none of it, and no checkpoint, has nothing to lose.
_REACHED = ("result.json", *MODEL_FILES, *OTHER_RECORDS)

# Files that mark a folder as one of this package, where there is no config.yaml.
_MARKS = {"heal.json": "a healed model", "adapt.json": "an adapted model", "evaluation.json": "an evaluation"}

# Where --overwrite moves what was there, and how far it came: all is moved, the new run stands.
_REPLACED, _MOVED, _BEGUN = ".replaced", ".moved", ".begun"


class RunFolder:
    """Reads and writes the records of one run.

    Args:
        path: The folder; it need not exist.
        keep_checkpoints: How many of the newest checkpoints are kept, besides the best one.
    """

    def __init__(self, path: Path, keep_checkpoints: int = 2) -> None:
        self.path = path
        self.config_yaml = path / "config.yaml"
        self.run_json = path / "run.json"
        self.metrics_jsonl = path / "metrics.jsonl"
        self.result_json = path / "result.json"
        self.checkpoints = CheckpointFolder(path / "checkpoints", keep_checkpoints)
        self._replaced = path / _REPLACED

    @property
    def load_line(self) -> str:
        """The line of Python that gives the trained model back."""
        return f'import timm, timm_asap; model = timm.create_model("local-dir:{self.path.as_posix()}", pretrained=True)'

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """See that a run may be written here, without writing.

        Args:
            resume: A run that is here may be continued.
            overwrite: A run that is here may be replaced.

        Raises:
            UserError: If it may not, or if the folder holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--output {self.path} is a file: expected a folder")
        with disk_errors(f"--output {self.path} cannot be read"):
            there = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        if all(name in LOCK_FILES or is_leftover(name) for name in there):
            return
        found = self._holds()
        if found is None:
            raise UserError(f"--output {self.path} holds files but no run: choose another folder")
        if overwrite or (found == "a run" and (resume or not self._reached_something())):
            return
        continues = "--resume continues it, " if found == "a run" else ""
        raise UserError(
            f"{self.path} already holds {found}: {continues}--overwrite replaces it, --output chooses another folder"
        )

    def _holds(self) -> str | None:
        """What of this package's is here; None for the files of somebody else, or none."""
        if self.config_yaml.is_file() and (self.run_json.is_file() or _is_ours(self.config_yaml)):
            return "a run"
        if self._replaces:
            return "a run"
        return next((what for name, what in _MARKS.items() if (self.path / name).is_file()), None)

    def _reached_something(self) -> bool:
        there = any(os.path.lexists(self.path / name) for name in _REACHED)
        return there or bool(self.checkpoints.files()) or self._replaces

    def start(self, config_yaml: str, facts: dict[str, Any]) -> None:
        """Begin a new run. What was here is moved aside, links as they are, until the run has a checkpoint.

        Args:
            config_yaml: The resolved configuration.
            facts: What ran where: command, versions, hardware, data.

        Raises:
            UserError: If the disk does not take it; what was here is here again then.
        """
        try:
            if self._replaces:  # a run that had begun, and came to no checkpoint: what it replaced is what counts
                self._remove_own()
            elif self._holds() is not None:
                self._move_aside()
            self._write_start(config_yaml, facts)
            if self._replaces:
                (self._replaced / _BEGUN).touch()
        except BaseException:
            self.restore()
            raise

    @property
    def _replaces(self) -> bool:
        """Whether what was here before lies aside."""
        return self._replaced.is_dir() and not self._replaced.is_symlink()

    @property
    def _has_begun(self) -> bool:
        """Whether the run that replaces it stands: before that, checkpoints here may be those of the old one."""
        return (self._replaced / _BEGUN).exists()

    def _move_aside(self) -> None:
        with disk_errors(f"{self.path} cannot be written to"):
            remove(self._replaced)  # a link, or a file
            self._replaced.mkdir()
            # a copy, so that the folder never is without one: it marks the folder as a run's
            if self.config_yaml.is_file():
                with replace_file(self._replaced / self.config_yaml.name) as aside:
                    shutil.copyfile(self.config_yaml, aside)
            for name in (*_FILES, *_FOLDERS):
                if os.path.lexists(self.path / name):
                    os.rename(self.path / name, self._replaced / name)
            (self._replaced / _MOVED).touch()

    def _remove_own(self) -> None:
        for name in (*_FILES, *_FOLDERS):
            remove(self.path / name)

    def restore(self) -> bool:
        """Put back what a run replaced that came to no checkpoint; whether there was anything to put back.

        Wherever it is interrupted, the next call finishes it.
        """
        if not self._replaces or (self._has_begun and self.checkpoints.files()):
            return False
        with disk_errors(f"{self.path} cannot be restored; {self._replaced} holds what it was"):
            aside = {name for name in (self.config_yaml.name, *_FILES, *_FOLDERS)
                     if os.path.lexists(self._replaced / name)}  # fmt: skip
            if (self._replaced / _MOVED).exists():  # then all that lies in the folder is of the new run
                self._remove_own()
                if self.config_yaml.name not in aside:
                    remove(self.config_yaml)
                remove(self._replaced / _BEGUN)
                remove(self._replaced / _MOVED)
            for name in aside:
                os.replace(self._replaced / name, self.path / name)
            remove(self._replaced)
        return True

    def recover(self) -> None:
        """Finish what a kill interrupted: a replacement that had not begun is undone."""
        if self._replaces and self._has_begun and self.checkpoints.files():
            self.drop_replaced()
        elif self._replaces and not self._has_begun:
            self.restore()

    def drop_replaced(self) -> None:
        """Remove what this run replaced: it has a checkpoint of its own."""
        with disk_errors(f"{self._replaced} cannot be removed"):
            remove(self._replaced)

    def resume(self, config_yaml: str, facts: dict[str, Any], epoch: int) -> None:
        """Begin a continuation: as `start`, but keep what was written up to a finished epoch.

        Args:
            config_yaml: The resolved configuration.
            facts: What ran where.
            epoch: The epoch of the checkpoint that the run continues from; lines of later ones are dropped.

        Raises:
            UserError: If metrics.jsonl is damaged or lacks that epoch, or the disk does not take it.
        """
        kept = [record for record in self.metrics() if record["epoch"] <= epoch]
        if epoch and (not kept or kept[-1]["epoch"] != epoch):
            raise UserError(
                f"{self.metrics_jsonl} has no line of epoch {epoch}, which the newest checkpoint was taken after: put "
                "the file back, or start again with --overwrite"
            )
        self._write_metrics(kept)
        self._write_start(config_yaml, facts)

    def _write_start(self, config_yaml: str, facts: dict[str, Any]) -> None:
        write_text(self.config_yaml, config_yaml)  # first: it alone marks the folder as a run's
        write_json(self.run_json, facts)

    def facts(self) -> dict[str, Any]:
        """What run.json holds; nothing where there is none, or it is damaged."""
        try:
            facts = json.loads(self.run_json.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one dict per finished epoch; a last line without its end is left out.

        Raises:
            UserError: If a line is damaged.
        """
        if not self.metrics_jsonl.is_file():
            return []
        with disk_errors(f"{self.metrics_jsonl} cannot be read"):
            lines = self.metrics_jsonl.read_bytes().splitlines(keepends=True)
        return [_epoch(line, f"{self.metrics_jsonl}, line {number}") for number, line in enumerate(lines, start=1)
                if line.endswith(b"\n")]  # fmt: skip

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Write the line of an epoch, in the place of one that there may be."""
        self._write_metrics([*(other for other in self.metrics() if other["epoch"] != record["epoch"]), record])

    def _write_metrics(self, records: list[dict[str, Any]]) -> None:
        write_text(self.metrics_jsonl, "".join(json.dumps(record) + "\n" for record in records))

    def result(self) -> dict[str, Any]:
        """What the exported weights reached on the test split: epoch, test_loss, test_accuracy, test_images,
        chosen_by and weights_sha256.

        Raises:
            UserError: If the run did not come to its end, or the file is damaged.
        """
        return read_json(self.result_json, "what train.py writes at the end of a run")

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json."""
        write_json(self.result_json, result)

    def remove_result(self) -> None:
        """Remove result.json, which tells of weights that are no longer exported."""
        with disk_errors(f"{self.result_json} cannot be removed"):
            remove(self.result_json)


def _is_ours(config_yaml: Path) -> bool:
    """Whether a config.yaml is that of a run; many programs write files of this name."""
    import yaml

    from timm_asap.training.config import RECIPE_KEYS

    with suppress(OSError, ValueError, yaml.YAMLError):
        fields = yaml.safe_load(config_yaml.read_text(encoding="utf-8"))
        return isinstance(fields, dict) and {"model", "dataset"} <= set(fields) <= set(RECIPE_KEYS)
    return False


def _epoch(line: bytes, where: str) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    try:
        record = json.loads(line)
        problem = None if isinstance(record, dict) else f"a {type(record).__name__}"
    except (ValueError, RecursionError) as error:
        record, problem = {}, f"it cannot be read as JSON: {' '.join(str(error).split())}"
    if problem is None:
        wrong = [key for key, value in record.items() if type(value) not in (int, float) or not math.isfinite(value)]
        missing = [key for key in ("epoch", "step", "seconds") if key not in record]
        problem = f"{wrong[0]} is no number" if wrong else f"{missing[0]} is missing" if missing else None
    if problem is None and (type(record["epoch"]) is not int or record["epoch"] < 1):
        problem = f"epoch is {record['epoch']}"
    if problem is not None:
        raise UserError(
            f"{where} is damaged ({problem}): expected the record of an epoch; delete the line to do without it"
        )
    return record
