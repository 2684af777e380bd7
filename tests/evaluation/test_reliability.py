"""The reliability diagram is scikit-learn's, and its intervals are Wilson's."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.reliability import independent_rows, reliability, wilson


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize(("equal", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_diagram_is_scikit_learns(equal, strategy, rng):
    p = rng.random(1000) ** 2
    target = rng.random(1000) < p
    observed, predicted = calibration_curve(target, p, n_bins=10, strategy=strategy)
    found = reliability(target, p, 10, equal)
    np.testing.assert_allclose(found.observed, observed, rtol=1e-12)
    np.testing.assert_allclose(found.mean_prediction, predicted, rtol=1e-12)


def test_bins_hold_their_rows_whatever_the_order(rng):
    p, target = rng.random(999).astype(np.float32) ** 8, rng.random(999) < 0.01
    found, order = reliability(target, p, 12), rng.permutation(999)
    assert found.count.sum() == 999
    assert np.ptp(found.count) <= 1
    assert (found.observed * found.count).sum() == pytest.approx(target.sum())
    assert (found.low <= found.observed).all()
    assert (found.observed <= found.high).all()
    for i, (low, high) in enumerate(zip(found.edges[:-1], found.edges[1:], strict=True)):
        inside = (p > low) & (p <= high) | (i == 0) & (p == low)
        assert inside.sum() == found.count[i]
        assert p[inside].mean(dtype=float) == pytest.approx(found.mean_prediction[i])
    for one, other in zip(found, reliability(target[order], p[order], 12), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_equal_predictions_are_in_one_bin():
    found = reliability([1] + [0] * 9, [0.9, 0.8] + [0.1] * 8, 5)
    assert found.count.tolist() == [8, 2]
    assert found.observed.tolist() == [0, 0.5]
    constant = reliability([1, 0, 0], [0.3] * 3, 5)
    assert (constant.count.tolist(), constant.observed.tolist()) == ([3], [1 / 3])


def test_an_empty_bin_of_equal_width_is_nan():
    found = reliability([1, 0], [0.9, 0.05], 4, "width")
    assert found.count.tolist() == [1, 0, 0, 1]
    assert np.isnan([found.observed[1], found.mean_prediction[2], found.low[1], found.high[2]]).all()


@pytest.mark.parametrize("columns", [([], []), ([1], [0.5, 0.5])])
def test_a_diagram_of_nothing(columns):
    with pytest.raises(InputError, match="equal length"):
        reliability(*columns)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (5, 10), (10, 10), (79, 80_212)])
def test_an_interval_ends_where_the_share_is_just_rejected(hits, count):
    """Check the definition: the ends solve |share - p| = z sqrt(p (1 - p) / n)."""
    for end in wilson(hits, count):
        assert (hits / count - end) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / count, abs=1e-12)


def test_intervals_cover(rng):
    hits = rng.binomial(200, 0.03, 20_000)
    low, high = wilson(hits, np.full(20_000, 200))
    assert 0.93 < np.mean((low <= 0.03) & (high >= 0.03)) < 0.98


def test_a_row_for_each_patient_is_an_independent_one(rng):
    p = rng.random(2000) * 0.2
    target = rng.random(2000) < p
    alone, each = reliability(target, p), reliability(target, p, patient=rng.permutation(2000))
    for name in ("low", "high"):
        np.testing.assert_allclose(getattr(each, name), getattr(alone, name), rtol=0.01)


def test_equal_rows_of_a_patient_are_one_row(rng):
    target = rng.random(300) < 0.2
    rows, which = np.repeat(target, 7).astype(float), np.zeros(2100, int)
    size = independent_rows(rows, which, np.repeat(np.arange(300), 7), 1)
    assert size[0] == pytest.approx(299)  # variance / (G - 1), where that of independent rows is / G


def test_a_bin_without_malignant_rows_is_as_clustered_as_the_worst_other(rng):
    patient = np.repeat(np.arange(60), 10)
    p = np.where(patient < 30, 0.01, 0.2)
    target = (patient >= 30) & (patient % 4 == 0)
    found = reliability(target, p, 2, patient=patient)
    size = independent_rows(target.astype(float), (patient >= 30).astype(int), patient, 2)
    assert size[0] == pytest.approx(size[1])
    assert size[0] < 31
    assert found.high[0] == pytest.approx(wilson(0, size[0])[1])
    assert reliability(target * 0, p, 2, patient=patient).high[0] == pytest.approx(wilson(0, 300)[1])


def test_intervals_by_patient_cover_where_those_of_rows_do_not(rng):
    covered = {"patient": [], "row": []}
    patient = np.repeat(np.arange(200), 20)
    for _ in range(400):
        share = rng.beta(0.3, 5.7, 200)  # 5 % in the mean
        target = rng.random(4000) < share[patient]
        for name, known in (("patient", patient), ("row", None)):
            found = reliability(target, np.full(4000, 0.05), 1, patient=known)
            covered[name].append(found.low[0] <= 0.05 <= found.high[0])
    assert np.mean(covered["patient"]) > 0.92
    assert np.mean(covered["row"]) < 0.8
