"""Ratios over patients: their intervals are those of the bootstrap, and cover."""

import numpy as np
import pytest
from scipy.stats import norm, t

from jaxlesion.evaluation import ratios
from jaxlesion.evaluation.ratios import ratio


def test_an_interval_is_that_of_patients_drawn_one_by_one():
    rng = np.random.default_rng(0)
    bottom = rng.integers(4, size=60)
    top = np.minimum(bottom, rng.integers(3, size=60))
    found = ratio(top, bottom, resamples=20_000)
    drawn = rng.integers(60, size=(20_000, 60))
    sample = top[drawn].sum(1) / bottom[drawn].sum(1)
    g = np.count_nonzero(bottom)
    tail = norm.cdf(-np.sqrt(g / (g - 1)) * t.ppf(0.975, g - 1))
    assert found.value == top.sum() / bottom.sum()
    assert (found.low, found.high) == pytest.approx(np.quantile(sample, [tail, 1 - tail]), abs=0.01)


def test_edges_and_few_patients():
    ones = np.ones(20)
    assert ratio(0 * ones, ones, resamples=50)[1:] == (0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert ratio(ones, ones, resamples=50)[1:] == (pytest.approx(0.025 ** (1 / 20)), 1)
    assert ratio(ones, np.where(np.arange(20) < 9, 1, 0), resamples=50)[1:] == (None, None)
    assert np.isnan(ratio(0 * ones, 0 * ones, resamples=50).value)
    assert ratio(ones, 2 * ones) == (0.5, None, None)


def test_shares_of_patients_are_covered():
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(300):
        malignant = rng.random(200) < 0.2
        hit = malignant & (rng.random(200) < 0.7)
        _, low, high = ratio(1.0 * hit, 1.0 * malignant, resamples=400, seed=seed)
        covered.append(low <= 0.7 <= high)
    assert 0.92 < np.mean(covered) < 0.99


def test_averaging_many_kinds_changes_no_limit_much(monkeypatch):
    rng = np.random.default_rng(2)
    top = np.append(rng.random(990) * 1e-4, 5 * rng.random(10))
    one = ratio(top, np.ones(1000), resamples=4000, best=np.inf)
    monkeypatch.setattr(ratios, "KINDS", 100)
    other = ratio(top, np.ones(1000), resamples=4000, best=np.inf)
    assert one.value == other.value
    assert other[1:] == pytest.approx(one[1:], rel=0.1)
