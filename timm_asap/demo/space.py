"""The demo as a folder that can be pushed to the Hugging Face Hub as a Space."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

import timm_asap
from timm_asap._io import disk_errors
from timm_asap.demo.models import DemoPair
from timm_asap.demo.predictions import write_examples
from timm_asap.errors import UserError

__all__ = ["write_space"]

_PACKAGE = Path(timm_asap.__file__).parent

# What the package needs wherever it runs; Gradio comes from the Space's own sdk_version.
_REQUIREMENTS = (
    *("torch", "timm", "accelerate", "datasets", "docstring-parser", "filelock", "huggingface-hub", "jinja2"),
    *("matplotlib", "numpy", "pillow", "pyyaml", "rich", "safetensors", "scikit-learn", "tyro"),
)

_APP = '''"""Alias-free downsampling beside plain strides. Written by `timm-asap demo --space`."""

import os
from pathlib import Path

# names of folders below, or of models on the Hub
MODEL = {model!r}
PLAIN = {plain!r}

os.chdir(Path(__file__).parent)

from timm_asap.demo import build_app, launch, open_pair  # noqa: E402

app = build_app(
    open_pair(MODEL, PLAIN),
    examples=sorted(Path("examples").iterdir()),
    credits={credits!r},
    corruption={corruption!r},
    severity={severity!r},
)

if __name__ == "__main__":
    launch(app, quiet=False)
'''

_README = """---
{metadata}---

# Alias-free downsampling, beside plain strides

{twin} beside {plain}: a picture in, the answers of both out, with a choice of corruptions and the spectra of what each
network samples. Written by `timm-asap demo --space` of timm_asap {version}; `timm_asap/` is a copy of that package
(MIT license, see `timm_asap/LICENSE`).
{credits}
"""


def write_space(
    folder: str | Path,
    pair: DemoPair,
    model: str,
    plain: str | None = None,
    *,
    examples: str | None = None,
    corruption: str,
    severity: int,
) -> Path:
    """Write the folder: app, requirements, the Space's card, the package, pictures and, of runs, the weights.

    Nothing in it names this machine. Models of the Hub are fetched by the Space when it starts.

    Args:
        folder: New, or empty; it appears when it is complete.
        pair: The networks, as `open_pair(model, plain)` gives them.
        model: As of `open_pair`.
        plain: As of `open_pair`.
        examples: A folder of pictures to take instead of the bundled ones.
        corruption: Chosen when the page opens.
        severity: Likewise.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds something.

    Reference:
        The card's fields: huggingface.co/docs/hub/spaces-config-reference.
    """
    folder = Path(folder)
    check_folder(folder)
    refused = f"--space {folder} cannot be written"
    with disk_errors(refused):
        folder.parent.mkdir(parents=True, exist_ok=True)
    beside = {"prefix": f".{folder.name}.", "dir": folder.parent}
    with disk_errors(refused), tempfile.TemporaryDirectory(**beside) as scratch:
        aside = Path(scratch) / "space"
        (aside / "examples").mkdir(parents=True)
        _, credits = write_examples(pair, aside / "examples", examples)
        names = [_copy_weights(pair.twin.folder, aside / "model") or model, plain]
        if plain is not None:
            names[1] = _copy_weights(pair.plain.folder, aside / "plain") or plain
        app = _APP.format(model=names[0], plain=names[1], credits=credits, corruption=corruption, severity=severity)
        (aside / "app.py").write_text(app, encoding="utf-8")
        (aside / "requirements.txt").write_text(_requirements(), encoding="utf-8")
        (aside / "README.md").write_text(_readme(pair, [model, plain], credits), encoding="utf-8")
        shutil.copytree(_PACKAGE, aside / "timm_asap", ignore=shutil.ignore_patterns("__pycache__", ".*"))
        (aside / "timm_asap" / "LICENSE").write_text(_license(), encoding="utf-8")
        os.replace(aside, folder)
    return folder


def check_folder(folder: Path) -> None:
    """Raise UserError unless a folder can be written there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--space {folder} is there already: expected a new folder, or an empty one")


def _copy_weights(run: Path | None, folder: Path) -> str | None:
    """Copy what timm loads of a run, and nothing of its checkpoints and records; returns what the Space opens."""
    if run is None:
        return None
    copy = folder / run.resolve().name
    copy.mkdir(parents=True)
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(run / file, copy / file)
    return f"{folder.name}/{copy.name}"


def _requirements() -> str:
    """The versions that run here; the part after a plus names a build that only its own index has."""
    versions = ((name, importlib.metadata.version(name).partition("+")[0]) for name in _REQUIREMENTS)
    return "".join(f"{name}=={version}\n" for name, version in versions)


def _readme(pair: DemoPair, models: list[str | None], credits: str) -> str:
    metadata: dict[str, Any] = {
        "title": "Alias-free downsampling",
        "emoji": "〰️",
        "colorFrom": "blue",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": importlib.metadata.version("gradio"),
        "python_version": "{}.{}".format(*sys.version_info),
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Alias-free networks of timm beside plain strides",
    }
    named = [name.removeprefix("hf-hub:").partition("@")[0] for name in models if name and name.startswith("hf-hub:")]
    if named:
        metadata["models"] = named
    return _README.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True),
        twin=f"`{pair.twin.title}`",
        plain=f"`{pair.plain.title}`",
        version=timm_asap.__version__,
        credits=f"\n{credits}" if credits else "",
    )


def _license() -> str:
    """The text that MIT wants beside every copy: of the checkout, or of the installed package."""
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        return (_PACKAGE.parent / "LICENSE").read_text(encoding="utf-8")
    return next(f for f in importlib.metadata.files("timm_asap") or () if f.name == "LICENSE").read_text()
