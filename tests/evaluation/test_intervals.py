"""Limits against closed forms, a jackknife of rows that are really left out, and simulated truth."""

import math

import numpy as np
import pytest
from scipy.stats import beta, t

from jaxlesion.evaluation import jackknife, metrics
from jaxlesion.evaluation.bootstrap import Scores, limits_of, resample
from jaxlesion.evaluation.intervals import Spread, at_edge, by_logit, corrected, limits, percentiles, resting_on, tail
from jaxlesion.evaluation.registry import summary
from jaxlesion.evaluation.statistics import Rows
from jaxlesion.evaluation.units import counted, units_of


def draw(seed: int = 0, patients: int = 40, rows: int = 150, digits: int = 2):
    """Return patient, target and prediction, each [rows]; some patients have one row."""
    rng = np.random.default_rng(seed)
    patient = np.where(rng.random(rows) < 0.5, rng.integers(patients, size=rows), patients + np.arange(rows))
    target = (rng.random(rows) < 0.2).astype(int)
    return patient, target, np.round(1 / (1 + np.exp(-rng.normal(1.5 * target))), digits)


def condensed(patient, target, prediction) -> Rows:
    thresholds = {"": np.full(len(target), 0.6)}
    units = units_of(np.unique(patient, return_inverse=True)[1], counted(target, prediction, thresholds))
    return Rows(target, prediction, units.kind, len(units.sizes), thresholds, units.sizes)


def test_corrected_percentiles_are_plain_ones_of_an_unbiased_sample_and_move_against_a_bias():
    sample = np.linspace(0.2, 0.6, 4001)
    assert corrected(0.4, sample, 30) == pytest.approx(percentiles(sample, 30), abs=1e-3)
    low, high = corrected(0.35, sample, 30)  # resamples are too high: both limits are lower than plain ones
    assert low < percentiles(sample, 30)[0]
    assert high < percentiles(sample, 30)[1]
    assert corrected(0.1, sample, 30)[0] == pytest.approx(0.2, abs=1e-3)
    assert corrected(0.4, np.where(sample < 0.25, np.nan, sample), 30) is None


@pytest.mark.parametrize("key", ["roc_auc", "pauc", "pr_auc", "specificity", "accuracy"])
@pytest.mark.parametrize("digits", [1, 16])
def test_the_jackknife_is_that_of_rows_really_left_out(key, digits):
    patient, target, prediction = draw(1, digits=digits)
    names = np.unique(patient)
    left_out = np.array([summary(target[patient != k], prediction[patient != k], 0.6)[key] for k in names])
    n = len(names)
    found = jackknife.spreads(condensed(patient, target, prediction))[key]
    square = (left_out - left_out.mean()) ** 2
    assert found.error == pytest.approx(math.sqrt((n - 1) / n * square.sum()), rel=1e-10)
    assert found.degrees == pytest.approx(2 * square.sum() ** 2 / ((square - square.mean()) ** 2).sum(), rel=1e-8)
    assert found.omitted == 0


def test_degrees_are_the_number_of_normal_summands_and_few_where_few_make_the_sum():
    square = np.random.default_rng(0).normal(size=200_000) ** 2
    assert jackknife.degrees(square, np.ones(200_000)) == pytest.approx(200_000, rel=0.03)
    alone = np.r_[1.0, np.full(999, 1e-6)]
    assert jackknife.degrees(alone, np.ones(1000)) < 3
    assert jackknife.degrees(np.ones(7), np.ones(7)) == 7


def test_degrees_are_at_most_the_units_less_one_and_a_fifth_of_them_for_the_partial_area():
    resting = {"all": 50, "benign": 50, "malignant": 12}
    partial_area = limits("pauc", 0.1, np.empty(0), resting, Spread(0.02, 900))
    assert partial_area == pytest.approx(by_logit(0.1, Spread(0.02, 2.4), 1 - metrics.MIN_TPR))
    assert limits("roc_auc", 0.8, np.empty(0), resting, Spread(0.02, 900)) == by_logit(0.8, Spread(0.02, 11), 1.0)


def test_a_replicate_without_a_class_is_omitted_and_many_of_them_withhold_the_error():
    target = np.r_[1, np.zeros(40, int)]
    prediction = np.r_[0.5, np.linspace(0, 1, 40)]
    all_of_one = np.r_[0, np.arange(40)]
    found = jackknife.spreads(condensed(all_of_one, target, prediction))["roc_auc"]
    assert found.omitted == 1
    assert found.error > 0
    two = np.r_[0, 0, np.ones(39, int)]
    found = jackknife.spreads(condensed(two, target, prediction))["roc_auc"]
    assert math.isnan(found.error)
    assert found.omitted == 1


def test_tails_are_those_of_hesterberg():
    assert tail(16) == pytest.approx(0.014, abs=5e-4)
    assert tail(1e6) == pytest.approx(0.025, abs=1e-5)
    assert all(tail(units) < tail(units + 1) for units in range(2, 40))
    sample = np.arange(1, 2000) / 2000
    low, high = percentiles(sample, 16)
    assert (low, high) == pytest.approx((tail(16), 1 - tail(16)))
    assert percentiles(sample, 1) is None


@pytest.mark.parametrize("units", [1, 10, 137])
def test_at_the_edges_an_interval_is_that_of_clopper_and_pearson(units):
    assert at_edge(1.0, 1.0, units) == pytest.approx((beta.ppf(0.025, units, 1), 1))
    assert at_edge(0.0, 1.0, units) == pytest.approx((0, beta.ppf(0.975, 1, units)))
    assert at_edge(0.2, 0.2, units) == pytest.approx((0.2 * 0.025 ** (1 / units), 0.2))
    assert at_edge(0.5, 1.0, units) is None
    assert at_edge(0.0, math.inf, units) is None


def test_an_area_keeps_inside_its_range_and_is_students_interval_where_it_is_sure():
    low, high = by_logit(0.19, Spread(0.02, 10), 0.2)
    assert 0 < low < 0.19 < high < 0.2
    low, high = by_logit(0.1, Spread(1e-5, 20), 0.2)
    half = t.ppf(0.975, 20) * 1e-5
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-9)
    assert by_logit(0.1, Spread(np.nan, 20), 0.2) is None
    assert by_logit(0.1, Spread(0.01, 0), 0.2) is None


def test_few_malignant_patients_leave_intervals_to_benign_rows_alone():
    sample = np.linspace(0.2, 0.6, 500)
    few = {"all": 50, "benign": 50, "malignant": 9, "called malignant": 20, "called benign": 50}
    assert limits("malignant_recall", 0.4, sample, few) is None
    assert limits("brier", 0.4, sample, few) is None
    assert limits("specificity", 0.4, sample, few, Spread(0.1, 30)) is not None
    assert limits("malignant_recall", 0.4, sample, few | {"malignant": 10}) is not None
    assert limits("roc_auc", math.nan, sample, few | {"malignant": 10}) is None


def test_patients_that_a_metric_rests_on_are_counted_and_not_rows():
    patient, target, prediction = draw(2)
    called = prediction >= 0.6
    found = resting_on(condensed(patient, target, prediction), "")
    wanted = {
        "all": patient,
        "malignant": patient[target == 1],
        "benign": patient[target == 0],
        "called malignant": patient[called],
        "called benign": patient[~called],
    }
    assert found == {basis: len(np.unique(names)) for basis, names in wanted.items()}


def simulate(rng, patients=100, lesions=8, shift=1.5):
    """Return patient, target, prediction [rows], and their true AUC between patients, Phi(shift / 2)."""
    patient = np.repeat(np.arange(patients), lesions)
    target = rng.random(len(patient)) < np.repeat(0.3 * (rng.random(patients) < 0.3), lesions)
    score = shift * target + np.repeat(rng.normal(size=patients), lesions) + rng.normal(size=len(patient))
    return patient, target.astype(int), 1 / (1 + np.exp(-score)), (1 + math.erf(shift / 2 / math.sqrt(2))) / 2


def test_intervals_by_patient_hold_the_truth_as_often_as_they_say_and_those_by_row_do_not():
    rng = np.random.default_rng(0)
    held = {True: [], False: []}
    for _ in range(250):
        patient, target, prediction, truth = simulate(rng)
        for by_patient, inside in held.items():
            found = resample(target, [Scores(prediction)], patient if by_patient else None, resamples=2)
            value = metrics.roc_auc(target, prediction)
            low, high = limits_of("roc_auc", value, found.samples[0]["roc_auc"], found.support[0])
            inside.append(low <= truth <= high)
    assert 0.92 <= np.mean(held[True]) <= 0.98
    assert np.mean(held[False]) < 0.91
