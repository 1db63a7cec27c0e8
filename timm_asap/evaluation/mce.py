"""The mean corruption error against a reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm_asap.errors import UserError
from timm_asap.evaluation.corruptions import CORRUPTIONS

__all__ = ["corruption_accuracy", "corruption_cells", "corruption_errors", "mean_corruption_error"]

_SEVERITIES = (1, 2, 3, 4, 5)

Cells = dict[tuple[str, int], Mapping[str, Any]]


def corruption_cells(results: list[Mapping[str, Any]]) -> Cells | None:
    """The entries of the 15 corruptions at all severities, by name and severity; None if one is missing."""
    found = {(r["corruption"], r["severity"]): r for r in results if r["measure"] == "corruption"}
    wanted = [(name, severity) for name in CORRUPTIONS for severity in _SEVERITIES]
    return {key: found[key] for key in wanted} if all(key in found for key in wanted) else None


def corruption_accuracy(cells: Cells) -> float:
    """Mean accuracy over the 15 corruptions and 5 severities, in percent."""
    return sum(cell["accuracy"] for cell in cells.values()) / len(cells)


def corruption_errors(cells: Cells, reference: Cells) -> dict[str, float]:
    """The corruption error CE of each corruption, in percent of the reference's.

    Args:
        cells: Of the model.
        reference: Of the reference model, on the same images with the same table.

    Returns:
        100 times the sum over the severities of the model's errors over that of the reference's errors.

    Raises:
        UserError: If the reference makes no error on a corruption.

    Reference:
        D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations", ICLR 2019 (arXiv:1903.12261), section 4.2.
    """
    errors = {}
    for name in CORRUPTIONS:
        own, others = (sum(100 - c[name, severity]["accuracy"] for severity in _SEVERITIES) for c in (cells, reference))
        if others == 0:
            raise UserError(f"--reference: the reference model makes no error on {name}, so there is no mCE against it")
        errors[name] = 100 * own / others
    return errors


def mean_corruption_error(errors: Mapping[str, float]) -> float:
    """mCE, in percent: the mean over the 15 corruptions of their `corruption_errors`."""
    return sum(errors.values()) / len(errors)
