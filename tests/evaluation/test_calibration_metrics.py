"""Metrics of calibration: right on known truth, equal to their definitions, and steady under weights."""

import numpy as np
import pytest
from scipy.special import expit as sigmoid
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import SplineTransformer

from jaxlesion.evaluation.calibration_metrics import (
    KNOTS,
    calibration_in_the_large,
    calibration_slope,
    equal_mass_error,
    expected_over_observed,
    integrated_calibration_index,
    restricted_cubic_spline,
    scaled_brier,
)

METRICS = (
    expected_over_observed,
    calibration_in_the_large,
    calibration_slope,
    integrated_calibration_index,
    equal_mass_error,
    scaled_brier,
)


def draw(rows: int = 3000, seed: int = 0, a: float = 0.0, b: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return target, and prediction whose true log odds are a + b of its own."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-2, 1.5, rows)
    return (rng.random(rows) < sigmoid(a + b * z)).astype(int), sigmoid(z)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (-1, 1), (0.5, 0.6)])
def test_intercept_and_slope_are_those_of_the_truth(a, b):
    target, p = draw(200_000, a=a, b=b)
    assert calibration_slope(target, p) == pytest.approx(b, abs=0.02)
    if b == 1:
        assert calibration_in_the_large(target, p) == pytest.approx(a, abs=0.03)


def test_metrics_are_their_definitions():
    target, p = draw(a=0.4, b=0.7)
    z = logit(p)[:, None]
    assert expected_over_observed(target, p) == pytest.approx(p.sum() / target.sum())
    assert calibration_slope(target, p) == pytest.approx(
        LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(z, target).coef_[0, 0], rel=1e-6
    )
    assert sigmoid(calibration_in_the_large(target, p) + z).sum() == pytest.approx(target.sum())
    brier, share = np.mean((p - target) ** 2), target.mean()
    assert scaled_brier(target, p) == pytest.approx(1 - brier / (share * (1 - share)))
    assert scaled_brier(target, np.full(len(p), share)) == pytest.approx(0)


def test_the_index_is_the_mean_distance_to_a_natural_cubic_spline():
    """Compare with scikit-learn's B-splines, restricted to those that are linear beyond the outer knots."""
    target, p = draw(a=0.4, b=0.7)
    z = logit(p)
    knots = np.quantile(z, KNOTS)
    found = restricted_cubic_spline(z, knots)
    assert found.shape == (3000, 4)
    basis = SplineTransformer(degree=3, knots=knots[:, None], extrapolation="continue").fit(z[:, None])
    # a restricted spline is a cubic spline within the knots: the B-splines reproduce its columns there
    inside = (z >= knots[0]) & (z <= knots[-1])
    splines = basis.transform(z[inside][:, None])
    for column in found[inside].T:
        np.testing.assert_allclose(splines @ np.linalg.lstsq(splines, column, rcond=None)[0], column, atol=1e-8)
    grid = np.linspace(knots[-1], knots[-1] + 3, 7)
    for end in (grid, knots[0] - 3 + 0 * grid + np.linspace(0, 3, 7)):  # second differences vanish beyond the knots
        np.testing.assert_allclose(np.diff(restricted_cubic_spline(end, knots), 2, axis=0), 0, atol=1e-8)
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(found, target)
    smooth = model.predict_proba(found)[:, 1]
    assert integrated_calibration_index(target, p) == pytest.approx(np.abs(p - smooth).mean(), rel=1e-4)


def test_the_index_of_a_shift_is_its_size_and_of_the_truth_nearly_0():
    target, p = draw(200_000)
    assert integrated_calibration_index(target, p) < 0.003
    shifted = sigmoid(logit(p) + 1)
    assert integrated_calibration_index(target, shifted) == pytest.approx(np.abs(shifted - p).mean(), rel=0.05)
    share = np.full(len(p), target.mean())
    assert integrated_calibration_index(target, share) == pytest.approx(0, abs=1e-9)
    assert integrated_calibration_index(target, np.round(p, 0).clip(0.1, 0.9)) > 0.05  # two values


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_bins_of_equal_mass_are_those_of_sorted_rows(decimals):
    target, p = draw(997)
    p = np.round(p, decimals)
    ranked = np.sort(p)
    edges = sorted({ranked[int(np.ceil(997 * j / 15)) - 1] for j in range(1, 15)})
    which = np.array([sum(one > edge for edge in edges) for one in p])
    expected = sum(abs((p - target)[which == j].sum()) for j in set(which)) / 997
    assert equal_mass_error(target, p) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_weight_is_so_many_rows(metric):
    target, p = draw(400)
    weight = np.where(target == 1, 1, 3)
    repeated = metric(np.repeat(target, weight), np.repeat(p, weight))
    if metric is integrated_calibration_index:  # its knots are quantiles of the rows as they are
        assert metric(target, p, 1.0 * weight) == pytest.approx(repeated, rel=0.2)
    else:
        assert metric(target, p, 1.0 * weight) == pytest.approx(repeated, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_no_metric_fails_on_a_small_or_saturated_table(metric):
    for target, p in (
        (np.array([0, 1]), np.array([0.0, 1.0])),
        (np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])),
        (np.array([0, 0, 0]), np.array([0.1, 0.2, 0.3])),
        (np.array([0, 1, 0, 1]), np.full(4, 0.5)),
    ):
        assert isinstance(metric(target, p), float)


@pytest.mark.parametrize("seed", range(20))
def test_the_index_of_shares_of_neighbours_does_not_overflow(seed):
    """The smooth curve of shares such as 0, .04, .08 leaves the range of exp at the ends."""
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 6, 120) / 25 * (rng.random(120) < 0.7)
    index = integrated_calibration_index((rng.random(120) < p).astype(int), p)
    assert np.isnan(index) or 0 <= index <= 1
