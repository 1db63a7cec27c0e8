"""Confidence intervals of a measured fraction or of a difference of two, and the mean corruption error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from timm_asap.errors import UserError
from timm_asap.evaluation.corruptions import CORRUPTIONS

__all__ = [
    "RESAMPLES",
    "WILSON",
    "below_chance",
    "bootstrap_means",
    "corruption_accuracy",
    "corruption_cells",
    "corruption_errors",
    "mean_corruption_error",
    "percentile_interval",
    "wilson_interval",
]


WILSON = "95 % Wilson score interval (Wilson, 1927), the images taken as independent draws"
"""What `wilson_interval` computes, in the words of a record."""

RESAMPLES = 10_000
"""Bootstrap resamples; Efron and Tibshirani (1993) take 1,000 or more for percentile intervals."""

_Z = 1.959963984540054  # the 97.5 % point of the standard normal distribution


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `right` of `total` were seen.

    Args:
        right: Images that were right.
        total: Images that were looked at, 1 or more.

    Returns:
        Low and high end in percent, within 0 to 100.

    Reference:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
        Statistical Association 22, 1927, 209-212.
    """
    share, z2 = right / total, _Z * _Z
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    # at 0 and 1 the formula gives these ends exactly, and rounding takes them off by the last digit
    low = 0.0 if right == 0 else 100 * (center - half)
    high = 100.0 if right == total else 100 * (center + half)
    return low, high


def bootstrap_means(values: np.ndarray, seed: int | np.random.SeedSequence, resamples: int = RESAMPLES) -> np.ndarray:
    """The means of bootstrap resamples of some numbers.

    A resample is told by how often it holds each distinct value, and those counts follow a multinomial distribution.
    They are drawn directly: the same distribution as drawing images, without resamples x images draws.

    Args:
        values: One number per image, (N,); fastest where few are distinct, as with 0 and 1.
        seed: Of the draws: a number, or a seed sequence of NumPy.
        resamples: How many.

    Returns:
        float64, (resamples,).

    Reference:
        B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 6.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
    return drawn @ distinct / len(values)


def percentile_interval(means: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap means (Efron and Tibshirani, 1993, chapter 13)."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def below_chance(accuracy: float, images: int, classes: int) -> str | None:
    """A line of doubt where a network is right less often than by guessing, and that is no accident; else None.

    Args:
        accuracy: In percent.
        images: That it was measured on.
        classes: To guess among.
    """
    chance = 100 / classes
    if wilson_interval(round(accuracy * images / 100), images)[1] >= chance:
        return None
    return (
        f"accuracy {accuracy:.2f} % is below chance ({chance:.2f} % for {classes} classes): are the data's classes "
        "the model's, and in its order? --class-order says which"
    )


_SEVERITIES = (1, 2, 3, 4, 5)

Cells = dict[tuple[str, int], Mapping[str, Any]]


def corruption_cells(results: Sequence[Mapping[str, Any]]) -> Cells | None:
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
