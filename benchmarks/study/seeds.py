"""Statistics with seeds as the unit: what other seeds would give, not what other images would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["SeedDifference", "detectable", "holm", "over_seeds"]


@dataclass(frozen=True)
class SeedDifference:
    """The mean of paired differences, one for each seed.

    Attributes:
        mean: Over the seeds.
        low: End of its 95 % t interval; NaN of one seed.
        high: The other end.
        p: Of the paired t test, two-sided.
        sign_p: Of the sign test, two-sided; differences of 0 are left out.
        by_seed: The differences.
    """

    mean: float
    low: float
    high: float
    p: float
    sign_p: float
    by_seed: tuple[float, ...]


def over_seeds(differences: Sequence[float]) -> SeedDifference:
    """The mean of some differences with its interval and tests."""
    values = np.asarray(differences, dtype=float)
    up, down = int((values > 0).sum()), int((values < 0).sum())
    sign_p = float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0
    low = high = p = float("nan")
    if len(values) > 1:
        error = values.std(ddof=1) / np.sqrt(len(values))
        low, high = (values.mean() + side * stats.t.ppf(0.975, len(values) - 1) * error for side in (-1, 1))
        p = float(stats.ttest_1samp(values, 0.0).pvalue) if error > 0 else float(values.mean() == 0)
    return SeedDifference(float(values.mean()), float(low), float(high), p, sign_p, tuple(map(float, values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for many comparisons (Holm, 1979), in the order given."""
    count = len(p_values)
    corrected, least = [0.0] * count, 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        least = max(least, (count - rank) * p_values[index])
        corrected[index] = min(1.0, least)
    return corrected


def detectable(sd: float, seeds: int, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true mean difference that a two-sided paired t test finds with some power.

    Args:
        sd: Standard deviation of the differences over seeds.
        seeds: How many there are.
        power: Probability to find it.
        level: Of the test.
    """
    limit = stats.t.ppf(1 - level / 2, seeds - 1)
    low, high = 0.0, 100.0
    for _ in range(60):
        effect = (low + high) / 2
        found = 1 - stats.nct.cdf(limit, seeds - 1, effect * np.sqrt(seeds))
        low, high = (effect, high) if found < power else (low, effect)
    return sd * high
