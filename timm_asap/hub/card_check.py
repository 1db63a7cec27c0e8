"""Whether the front matter of a card says the same after a trip through YAML, as the Hub will read it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import yaml
from huggingface_hub import ModelCard

from timm_asap.errors import UserError

__all__ = ["check_card"]

_NEEDED = ("library_name", "pipeline_tag", "license", "tags")


def check_card(text: str) -> None:
    """See that the metadata of a card can be read back.

    Args:
        text: The card: front matter between lines of `---`, then Markdown.

    Raises:
        UserError: If the front matter is missing or no plain YAML (a NumPy or torch scalar becomes a Python object that
            no reader loads), holds NaN or infinity, lacks what every card states, or has a `model-index` that the
            Hub's client refuses.
    """
    front, body = _split(text)
    try:
        metadata = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise UserError(
            f"README.md: its metadata cannot be read back as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(metadata, dict):
        raise UserError(f"README.md: expected 'key: value' lines as metadata, got a {type(metadata).__name__}")
    for place, value in _values(metadata):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"README.md: its metadata holds {value} at {place}: expected a number that was measured")
    if missing := [key for key in _NEEDED if not metadata.get(key)]:
        raise UserError(f"README.md: its metadata lacks {', '.join(missing)}")
    try:
        again = ModelCard(text).data.to_dict()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"README.md: the Hub would refuse its metadata: {' '.join(str(error).split())}") from error
    if lost := [key for key in metadata if key not in again]:
        raise UserError(f"README.md: its metadata would lose {', '.join(lost)} on the way to the Hub")
    if not body.strip():
        raise UserError("README.md holds metadata and no text")


def _split(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    marks = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if len(marks) < 2 or marks[0] != 0:
        raise UserError("README.md has no metadata: expected it to begin with lines between two of '---'")
    return "".join(lines[1 : marks[1]]), "".join(lines[marks[1] + 1 :])


def _values(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of the metadata, with the keys that lead to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _values(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _values(value, f"{place}[{number}]")
    else:
        yield place, node
