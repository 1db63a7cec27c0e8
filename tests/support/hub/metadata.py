"""The YAML front matter of a card: read, and checked in the main as the Hub checks it."""

from __future__ import annotations

import re
from typing import Any

import yaml

_STRINGS = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
_LISTS = ("tags", "datasets", "metrics", "base_model", "language")


def front_matter(card: str) -> dict[str, Any]:
    """The metadata of a card; {} where it has none or it cannot be read."""
    try:
        metadata = _parse(card)
    except yaml.YAMLError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _parse(card: str) -> Any:
    match = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def problems(card: str) -> tuple[list[str], list[str]]:
    """Errors, which refuse a commit, and warnings."""
    try:
        metadata = _parse(card)
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if not metadata:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return ["YAML Metadata Error: expected a mapping"], []
    errors = [f'"{k}" must be a string' for k in _STRINGS if not isinstance(metadata.get(k, ""), str)]
    for key in _LISTS:
        values = metadata.get(key, [])
        if not all(isinstance(v, str) for v in (values if isinstance(values, list) else [values])):
            errors.append(f'"{key}" must be an array of strings')
    return errors + _model_index_errors(metadata.get("model-index", [])), []


def _model_index_errors(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for entry in index:
        if not isinstance(entry.get("name"), str):
            errors.append('"model-index[].name" must be a string')
        for result in entry.get("results") or []:
            for key, needed in (("task", ["type"]), ("dataset", ["name", "type"])):
                missing = [field for field in needed if field not in (result.get(key) or {})]
                errors += [f'"model-index[].results[].{key}.{field}" is required' for field in missing]
            if not result.get("metrics"):
                errors.append('"model-index[].results[].metrics" is required')
    return errors
