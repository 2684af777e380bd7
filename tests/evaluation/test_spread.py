"""The spread of a metric over hospitals: no more than chance gives none, and true spread is recovered."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from jaxlesion.evaluation.spread import Z_95, heterogeneity, spread_over


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
