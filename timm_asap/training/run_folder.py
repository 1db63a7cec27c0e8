"""The folder of one run: which files it has, when it may be written to, and the records in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from timm_asap.errors import UserError
from timm_asap.training.checkpoints import CheckpointFolder
from timm_asap.training.files import replace_text

#: The record of an adaptation, beside config.yaml.
ADAPTATION = "adapt.json"

# All that a run writes besides config.yaml, whose presence marks a folder as a run's: --overwrite removes these,
# replaces that, and touches nothing else.
_FILES = (
    *("run.json", "metrics.jsonl", "result.json", "model.safetensors", "config.json", "README.md"),
    *("evaluation.json", "evaluation.safetensors", "evaluation.partial.safetensors", "comparison.json", "heal.json"),
    ADAPTATION,
)
_FOLDERS = ("checkpoints", "plots", "publish", "tracker")


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
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not self.config_yaml.is_file():
            raise UserError(f"--output {self.path} holds files but no run: choose another folder")
        if not resume and not overwrite:
            raise UserError(
                f"{self.path} already holds a run: --resume continues it, --overwrite replaces it, "
                "--output chooses another folder"
            )

    def start(self, config_yaml: str, facts: dict[str, Any]) -> None:
        """Begin a new run: remove the records of an older one, then write those of this one.

        Args:
            config_yaml: The resolved configuration.
            facts: What ran where: command, versions, hardware, data.
        """
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in _FOLDERS:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        self._write_start(config_yaml, facts)

    def resume(self, config_yaml: str, facts: dict[str, Any], epoch: int) -> None:
        """Begin a continuation: as `start`, but keep what was written up to a finished epoch.

        Args:
            config_yaml: The resolved configuration.
            facts: What ran where.
            epoch: The epoch of the checkpoint that the run continues from; lines of later ones are dropped.
        """
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["epoch"] <= epoch]
        replace_text(self.metrics_jsonl, "".join(kept))
        self.result_json.unlink(missing_ok=True)
        self._write_start(config_yaml, facts)

    def _write_start(self, config_yaml: str, facts: dict[str, Any]) -> None:
        replace_text(self.config_yaml, config_yaml)
        replace_text(self.run_json, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one dict per finished epoch; a line cut short by a crash is left out."""
        if not self.metrics_jsonl.is_file():
            return []
        lines = self.metrics_jsonl.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Append the line of an epoch."""
        with open(self.metrics_jsonl, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def result(self) -> dict[str, Any]:
        """What the exported weights reached on the test split: epoch, test_loss, test_accuracy, test_images and
        chosen_by.

        Raises:
            FileNotFoundError: If the run did not come to its end.
        """
        return json.loads(self.result_json.read_text(encoding="utf-8"))

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json."""
        replace_text(self.result_json, json.dumps(result, indent=2) + "\n")
