"""The spread of a metric over hospitals: no more than chance gives none, and true spread is recovered."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from jaxlesion.evaluation.spread import Z_95, difference_interval, gaps, heterogeneity, spread_over


def test_equal_estimates_have_no_spread():
    assert heterogeneity([0.3, 0.3, 0.3], [0.1, 0.2, 0.4]) == (pytest.approx(0.3), 0.0, 0.0, 3)


def test_two_estimates_by_hand():
    """Errors of 1, values 0 and 4: Q = 8, tau^2 = (8 - 1) / (2 - 2 / 2) = 7, I^2 = 7 / 8."""
    found = heterogeneity([0.0, 4.0], [1.0, 1.0])
    assert found == (pytest.approx(2.0), pytest.approx(np.sqrt(7)), pytest.approx(7 / 8), 2)


def test_true_spread_is_recovered_on_average():
    rng = np.random.default_rng(0)
    error = rng.uniform(0.1, 0.3, 30)
    variances = [heterogeneity(rng.normal(0, 0.5, 30) + rng.normal(0, error), error).tau ** 2 for _ in range(400)]
    assert np.mean(variances) == pytest.approx(0.25, abs=0.02)


def test_hospitals_are_compared_on_the_logit_scale():
    value, error = np.array([0.8, 0.85, 0.9]), np.array([0.2, 0.3, 0.25])
    found = pd.DataFrame(
        {
            "variable": ["attribution"] * 4 + ["sex"],
            "group": ["a", "b", "c", "unknown", "male"],
            "roc_auc": [*value, 0.5, 0.1],
            "roc_auc_low": [*expit(logit(value) - Z_95 * error), 0.4, 0.05],
            "roc_auc_high": [*expit(logit(value) + Z_95 * error), 0.6, 0.2],
        }
    )
    expected = heterogeneity(logit(value), error)
    spread = spread_over(found)
    assert spread.mean == pytest.approx(expit(expected.mean))
    assert spread[1:] == (pytest.approx(expected.tau), pytest.approx(expected.i2), 3)
    assert spread_over(found[1:]) is None  # two hospitals tell no spread


def test_symmetric_intervals_combine_as_standard_errors_do():
    low, high = difference_interval((0.9, 0.87, 0.93), (0.8, 0.76, 0.84))
    assert (low, high) == (pytest.approx(0.05), pytest.approx(0.15))


def test_the_interval_of_a_gap_covers_it():
    """Of shares of 40 and 60 rows by Wilson's intervals, 2,000 times: 95 % within four standard errors."""
    from jaxlesion.evaluation.reliability import wilson

    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        each = []
        for n, p in ((40, 0.8), (60, 0.6)):
            hits = rng.binomial(n, p)
            each.append((hits / n, *(float(end) for end in wilson(hits, n))))
        low, high = difference_interval(*each)
        covered += low <= 0.2 <= high
    assert abs(covered / 2000 - 0.95) < 0.02


def test_groups_are_compared_with_the_largest_of_their_variable():
    found = pd.DataFrame(
        {
            "variable": ["sex"] * 3 + ["attribution"] * 2,
            "group": ["female", "male", "unknown", "a", "b"],
            "n": [50, 70, 90, 10, 20],
            "roc_auc": [0.8, 0.9, 0.7, 0.8, np.nan],
            "roc_auc_low": [0.7, 0.85, 0.6, 0.7, np.nan],
            "roc_auc_high": [0.88, 0.94, 0.8, 0.9, np.nan],
        }
    )
    (row,) = gaps(found).to_dict("records")
    assert (row["variable"], row["group"], row["reference"]) == ("sex", "female", "male")
    assert row["gap"] == pytest.approx(-0.1)
    assert row["low"] < -0.2 < row["high"] < 0.0
