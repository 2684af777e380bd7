"""Decision curves and calls at fixed sensitivity against their definitions."""

import numpy as np
import pytest

from jaxlesion.evaluation.decision import decision_curve, needed_at, prevalence_weight


def draw(seed: int = 0, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.1).astype(int)
    return target, np.round(np.clip(0.02 * rng.random(rows) + 0.01 * target, 0, 1), 3)


@pytest.mark.parametrize("seed", range(3))
def test_net_benefit_is_that_of_vickers_and_elkin(seed):
    """dcurves: net_benefit = tpr pos_rate - t / (1 - t) fpr neg_rate; avoided = (model - all) / (t / (1 - t)) nper."""
    target, p = draw(seed)
    found = decision_curve(target, p)
    assert len(found.threshold) == 50
    share = target.mean()
    for t, model, treat_all, avoided in zip(*found, strict=True):
        called = p >= t
        odds = t / (1 - t)
        tpr, fpr = called[target == 1].mean(), called[target == 0].mean()
        assert model == pytest.approx(tpr * share - odds * fpr * (1 - share), abs=1e-12)
        assert treat_all == pytest.approx(share - odds * (1 - share))
        assert avoided == pytest.approx(1000 * (model - treat_all) / odds)


def test_published_numbers_of_a_decision_curve():
    """Vickers and Elkin 2006, their worked example: 900 patients, t = 10 %, 65 true and 225 false positives."""
    target = np.repeat([1, 1, 0, 0], [65, 45, 225, 565])
    p = np.repeat([0.5, 0.0, 0.5, 0.0], [65, 45, 225, 565])
    found = decision_curve(target, p, thresholds=[0.1])
    assert found.model[0] == pytest.approx((65 - 225 / 9) / 900)


@pytest.mark.parametrize("prevalence", [0.001, 0.3])
def test_a_stated_prevalence_weights_benign_rows(prevalence):
    target, p = draw()
    weight = prevalence_weight(target, prevalence)
    assert np.average(target, weights=weight) == pytest.approx(prevalence)
    assert (weight[target == 1] == 1).all()
    assert decision_curve(target, p, weight).treat_all[0] == pytest.approx(prevalence - (1 - prevalence) / 999)
    assert (prevalence_weight(target, None) == 1).all()


@pytest.mark.parametrize("sensitivity", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_calls_at_a_sensitivity_are_those_of_the_highest_threshold_that_reaches_it(seed, sensitivity):
    target, p = draw(seed)
    threshold = max(at for at in p if (p >= at)[target == 1].mean() >= sensitivity)
    called = p >= threshold
    found = needed_at(target, p, sensitivity, patients=20)
    assert found.sensitivity == called[target == 1].mean()
    assert found.number_needed == pytest.approx(called.sum() / called[target == 1].sum())
    assert found.ppv == pytest.approx(1 / found.number_needed)
    assert found.calls_per_1000 == pytest.approx(1000 * called.mean())
    assert found.calls_per_patient == pytest.approx(called.sum() / 20)
    assert np.isnan(needed_at(target, p, sensitivity).calls_per_patient)
    stated = needed_at(target, p, sensitivity, 0.002, 20)
    tpr, fpr = called[target == 1].mean(), called[target == 0].mean()
    assert stated.ppv == pytest.approx(0.002 * tpr / (0.002 * tpr + 0.998 * fpr))
    assert stated.calls_per_1000 == pytest.approx(1000 * (0.002 * tpr + 0.998 * fpr))
    assert stated.calls_per_patient == pytest.approx(stated.calls_per_1000 / 1000 * 300 / 20)
