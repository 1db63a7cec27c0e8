"""Train and measure every network of the emoji study; what is there already is not done again.

    npm install emoji-datasource-apple emoji-datasource-google emoji-datasource-twitter emoji-datasource-facebook
    python -m benchmarks.emoji --packages node_modules [--work runs/emoji] [--only plain.seed0 asap.seed0]

Each run leaves its folder under `--work` and one JSON under `benchmarks/results/emoji/`; `python -m
benchmarks.emoji.report` writes the page. Several may run side by side, as of `benchmarks.study`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.emoji.images import write_folds
from benchmarks.emoji.plan import EMOJI
from benchmarks.study.__main__ import Options as StudyOptions
from benchmarks.study.__main__ import carry_out


@dataclass(frozen=True)
class Options:
    """Train and measure the networks of the emoji study."""

    packages: Path = Path("node_modules")
    """Folder of the four npm packages."""
    work: Path = Path("runs/emoji")
    """Folder of the images and the runs."""
    only: tuple[str, ...] = ()
    """Names of runs, such as plain.seed0; by default all."""
    prepare: bool = False
    """Only write the image folders."""


def main() -> None:
    """Write the image folders, and do what is left."""
    options = tyro.cli(Options)
    images = options.work / "images"
    write_folds(options.packages, images)
    if not options.prepare:
        carry_out(EMOJI, StudyOptions(data_dir=str(images), work=str(options.work), only=options.only))


if __name__ == "__main__":
    main()
