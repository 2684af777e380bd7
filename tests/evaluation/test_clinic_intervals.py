"""Intervals of clinical metrics: counts against rows that are really drawn, and simulated truth."""

import numpy as np
import pytest
from scipy.special import expit, logit

from jaxlesion.evaluation import clinic_intervals
from jaxlesion.evaluation.calibration_metrics import KNOTS, calibration_slope, restricted_cubic_spline
from jaxlesion.evaluation.clinic_intervals import benefit_limits, calibration_limits, froc_limits, resampled_cells
from jaxlesion.evaluation.decision import decision_curve
from jaxlesion.evaluation.logistic import fit_logistic
from jaxlesion.evaluation.patients import froc

AT = (0.02, 0.1, 0.3)


def draw(seed: int = 0, patients: int = 60, slope: float = 1.0):
    """Return patient, target and prediction [rows] of correlated lesions; `slope` is the calibration slope."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 20, size=patients))
    z = -3 + rng.normal(size=patients)[patient] + rng.normal(size=len(patient))
    target = (rng.random(len(patient)) < expit(z)).astype(int)
    return patient, target, expit(z / slope)


def drawn(monkeypatch, patient, target, prediction, resamples: int = 40):
    """Return rows of resamples of patients, and let resamples be just these."""
    rng = np.random.default_rng(1)
    count = patient.max() + 1
    weights = rng.multinomial(count, np.full(count, 1 / count), resamples).astype(float)

    def draws(units, resamples, chunk, seed):
        row = np.array([np.flatnonzero(units.kind == kind)[0] for kind in range(len(units.sizes))])
        yield weights[:, patient[row]]

    monkeypatch.setattr(clinic_intervals, "draws", draws)
    return [np.repeat(np.arange(len(patient)), weight.astype(int)[patient]) for weight in weights]


def several(seed: int = 0, slope: float = 1.0):
    """Return a draw of patients with two rows or more, so that each is a kind of his own."""
    patient, target, prediction = draw(seed, slope=slope)
    kept = np.bincount(patient)[patient] > 1
    return np.unique(patient[kept], return_inverse=True)[1], target[kept], prediction[kept]


def test_counts_in_cells_are_those_of_rows_really_drawn(monkeypatch):
    patient, target, _ = several()
    cell = np.random.default_rng(2).integers(7, size=len(patient))
    rows = drawn(monkeypatch, patient, target, cell)
    expected = [np.bincount(cell[which], minlength=7) for which in rows]
    np.testing.assert_array_equal(resampled_cells(patient, cell, 7, 40, 0), expected)


def test_resampled_metrics_are_those_of_rows_really_drawn(monkeypatch):
    patient, target, p = several(3, slope=0.7)
    rows, samples = drawn(monkeypatch, patient, target, p), []
    monkeypatch.setattr(clinic_intervals, "percentiles", lambda sample, units: samples.append(sample))
    monkeypatch.setattr(clinic_intervals, "at_edge", lambda value, best, units: None)
    count, ones = int(patient.max()) + 1, np.ones(len(target))
    froc_limits(target, p, patient, (0.5, 2), [0.5, 0.5], 40)
    benefit_limits(target, p, patient, AT, None, 40)
    calibration_limits(target, p, ones, patient, 40)
    for number, which in enumerate(rows):
        y, q = target[which], p[which]
        found = [sample[number] for sample in samples]
        assert found[:2] == pytest.approx(froc(y, q, count, (0.5, 2)))
        assert found[2:5] == pytest.approx(decision_curve(y, q, thresholds=AT).model, abs=1e-12)
        assert found[5] == pytest.approx(calibration_slope(y, q), rel=2e-3)
        if (expected := ici(y, q, np.quantile(logit(p), KNOTS))) is not None:
            assert found[6] == pytest.approx(expected, rel=0.05)
    assert np.isnan(samples[6]).mean() <= 0.1  # splines of 23 malignant patients: a tail without any is separated


def ici(target, prediction, knots) -> float | None:
    """Return the ICI with the knots of another table; None where its spline has no finite fit."""
    design = np.column_stack([np.ones(len(target)), restricted_cubic_spline(logit(prediction), knots)])
    found = fit_logistic(design, target.astype(float))
    return None if found is None else float(np.abs(prediction - expit(design @ found)).mean())


def test_a_stated_prevalence_weights_net_benefit_as_its_curve_does(monkeypatch):
    patient, target, p = several(4)
    rows, samples = drawn(monkeypatch, patient, target, p), []
    monkeypatch.setattr(clinic_intervals, "percentiles", lambda sample, units: samples.append(sample))
    benefit_limits(target, p, patient, AT, 0.01, 40)
    for number, which in enumerate(rows):
        y, q = target[which], p[which]
        benign = y.sum() * 0.99 / 0.01 / (len(y) - y.sum())
        expected = decision_curve(y, q, np.where(y == 1, 1, benign), AT).model
        assert [sample[number] for sample in samples] == pytest.approx(expected, abs=1e-12)


def test_below_ten_malignant_patients_there_is_no_interval():
    patient, target, p = draw(5)
    some = np.unique(patient[target == 1])[:9]
    target = np.where(np.isin(patient, some), target, 0)
    assert froc_limits(target, p, patient, (1,), [0.5], 50) == [None]
    assert benefit_limits(target, p, patient, AT, None, 50) == [None] * 3
    assert calibration_limits(target, p, np.ones(len(p)), patient, 50) == {"slope": None, "ici": None}


def test_a_constant_prediction_has_no_slope_and_no_interval():
    patient, target, p = draw(6)
    found = calibration_limits(target, np.full(len(p), 0.1), np.ones(len(p)), patient, 50)
    assert found == {"slope": None, "ici": None}


@pytest.mark.parametrize("slope", [1.0, 0.6])
def test_intervals_of_the_slope_and_net_benefit_hold_the_truth(slope):
    sets, held = 60, {"slope": 0, "benefit": 0}
    population = draw(99, patients=20_000, slope=slope)
    truth = decision_curve(*population[1:], thresholds=AT).model[1]
    for seed in range(sets):
        patient, target, p = draw(seed, slope=slope)
        low, high = calibration_limits(target, p, np.ones(len(p)), patient, 100, seed)["slope"]
        held["slope"] += low <= slope <= high
        low, high = benefit_limits(target, p, patient, AT, None, 100, seed)[1]
        held["benefit"] += low <= truth <= high
    assert all(count / sets >= 0.86 for count in held.values()), held  # .93 less 2 standard errors


def test_bins_lose_next_to_nothing_of_the_log_odds():
    rng = np.random.default_rng(7)
    z = np.append(rng.normal(-6, 2, 20_000), logit(0.999))
    target = (rng.random(len(z)) < expit(z)).astype(int)
    low, high = calibration_limits(target, expit(z), np.ones(len(z)), np.arange(len(z)), 400)["slope"]
    assert low < calibration_slope(target, expit(z)) < high
    assert (low + high) / 2 == pytest.approx(calibration_slope(target, expit(z)), abs=0.02)
