"""Statistics with seeds as the unit, against SciPy and published examples."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.seeds import detectable, holm, over_seeds


def test_interval_and_test_are_those_of_the_paired_t_test():
    a, b = np.array([91.0, 92.5, 90.5, 93.0]), np.array([90.0, 91.0, 91.0, 91.5])
    found = over_seeds(a - b)
    expected = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.sign_p == pytest.approx(2 * (1 + 4) / 16)  # three of four up: P(X >= 3) = 5/16


def test_one_seed_has_no_interval():
    found = over_seeds([1.0])
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert found.mean == 1.0


def test_no_difference_at_all_is_no_evidence():
    assert over_seeds([0.0, 0.0]).p == over_seeds([0.0, 0.0]).sign_p == 1.0


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_detectable_difference_has_the_power_it_claims():
    effect = detectable(sd=2.0, seeds=5)
    drawn = np.random.default_rng(0).normal(effect, 2.0, (20_000, 5))
    assert (stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)
    assert detectable(sd=2.0, seeds=20) < effect
