"""Runs for the tests of cards: an alias-free twin and its plain network, trained and evaluated in seconds."""

import json
import shutil
from pathlib import Path

import yaml

from tests.support.tiny_run import main, tiny_flags, write_images
from timm_asap.cli import main as timm_asap_command

QUICK = (
    *("--corruptions", "fog,contrast", "--severities", "1", "3", "--limit-attacks", "12", "--limit-aliasing", "4"),
    *("--attacks", "fgsm,pgd", "--eps", "2/255", "--steps", "2", "--shifts", "circular", "--shift-pixels", "1"),
    *("--batch-size", "20", "--no-plots"),
)


def train_run(base, name, model, *words):
    """Train for an epoch on the images in BASE/idx, which are made if need be; returns the run's folder."""
    images = base / "idx" if (base / "idx").is_dir() else write_images(base / "idx")
    assert main([*tiny_flags(images, base / name, model=model, model_kwargs="{}", epochs=1), *words]) == 0
    return base / name


def evaluate_run(run, *words):
    """Measure one of each kind."""
    assert (
        timm_asap_command(["evaluate", str(run), "--dataset", "idx", "--data-dir", str(run.parent / "idx"), *words])
        == 0
    )


def copy_run(run, folder):
    """A run of its own for a test that changes records; returns its folder."""
    return Path(shutil.copytree(run, folder / run.name, ignore=shutil.ignore_patterns("checkpoints")))


def change_json(path, **changes):
    """Set entries of a JSON file; nested ones by a double underscore: `data__name`."""
    content = json.loads(path.read_text())
    for keys, value in changes.items():
        *outer, last = keys.split("__")
        place = content
        for key in outer:
            place = place[key]
        place[last] = value
    path.write_text(json.dumps(content))


def change_config(run, **changes):
    """Set fields of config.yaml."""
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def section(card, heading):
    """The text below a heading of level two or three, up to the next one."""
    text = card.split(f"# {heading}\n", 1)[1]
    return text.split("\n## ")[0].split("\n### ")[0]
