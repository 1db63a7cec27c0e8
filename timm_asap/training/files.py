"""Files that are either there in full or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a file aside and put it in place only when it is complete and on the disk.

    Args:
        path: The file to replace or create; its folder is made if need be.

    Yields:
        The path to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    try:
        aside.touch()
        usual_mode = aside.stat().st_mode
        yield aside
        aside.chmod(usual_mode)  # safetensors makes files that only their owner may read
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Replace a text file in one go."""
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8")
