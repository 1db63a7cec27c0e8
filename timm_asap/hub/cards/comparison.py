"""comparison.json: a run's evaluation against another one, as its card shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_asap._io import read_json, sha256
from timm_asap.errors import UserError
from timm_asap.evaluation.comparison import METHOD, compare
from timm_asap.evaluation.record import Record, read_record
from timm_asap.evaluation.statistics import RESAMPLES
from timm_asap.hub.cards.privacy import cut_paths

__all__ = ["COMPARISON", "check_comparison", "make_comparison", "shown_rows"]

COMPARISON = "comparison.json"


def make_comparison(baseline: Path, evaluation: Record) -> dict[str, Any]:
    """Compare a run with a baseline, paired by image where both were measured on the same images.

    Args:
        baseline: evaluation.json of the baseline, or the folder that holds it.
        evaluation: Of the run.

    Returns:
        What comparison.json holds: JSON values, with what tells when it no longer fits.

    Raises:
        UserError: If there is no such record, it is the run's own, or it was made of other data.
    """
    against = read_record(baseline)
    weights = against.content["model"]["weights_sha256"]
    if weights == evaluation.content["model"]["weights_sha256"]:
        raise UserError(f"--against {against.path} is of the same weights: expected the record of another model")
    compared = compare(against, evaluation)
    content = {
        "version": 1,
        "evaluation_sha256": sha256(evaluation.path),
        "against": {**against.content["model"], "trained_with": _training_command(against)},
        "method": METHOD,
        "resamples": RESAMPLES,
        "seed": 0,
        **compared.record(),
    }
    return cut_paths(content)


def _training_command(record: Record) -> str | None:
    """What trained the baseline, where its record lies in its run folder."""
    facts = record.path.with_name("run.json")
    return read_json(facts).get("command") if facts.is_file() else None


def check_comparison(comparison: Mapping[str, Any], evaluation: Record, folder: Path) -> None:
    """See that a comparison was made of the run's present evaluation.

    Args:
        comparison: What comparison.json holds.
        evaluation: Of the run.
        folder: Of the run.

    Raises:
        UserError: If it was not.
    """
    if comparison.get("evaluation_sha256") != sha256(evaluation.path):
        raise UserError(
            f"{folder / COMPARISON} was made of an older evaluation: `timm-asap card {folder} --against RECORD` makes "
            "it anew; or delete it"
        )


def shown_rows(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows for a reader: of a corruption that was measured at several severities, their mean alone."""
    means = {row["id"] for row in comparison["rows"] if row["entries"] > 1}
    rows = [row for row in comparison["rows"] if row["measure"] != "aliasing"]
    return [row for row in rows if row["entries"] > 1 or row["id"].rpartition("/")[0] not in means]
