"""Ranking over folds against its definition, known offsets, and a bootstrap."""

import numpy as np
import pytest

from jaxlesion.evaluation import metrics
from jaxlesion.evaluation.crossfold import auc_influence, mean_auc_spread, rank_within_folds


def draw(seed: int = 0, rows: int = 400, digits: int = 2):
    """Return target, prediction, fold and patient, each [rows]."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(80, size=rows)
    target = (rng.random(rows) < 0.2).astype(int)
    score = 1.5 * target + rng.normal(size=rows) + rng.normal(size=80)[patient]
    return target, np.round(1 / (1 + np.exp(-score)), digits), patient % 4, patient


def test_a_rank_is_the_share_of_the_folds_benign_rows_below():
    target, prediction, fold, _ = draw(digits=1)
    rank = rank_within_folds(target, prediction, fold)
    for row in range(len(target)):
        benign = prediction[(fold == fold[row]) & (target == 0)]
        assert rank[row] == pytest.approx((benign < prediction[row]).mean() + (benign == prediction[row]).mean() / 2)


@pytest.mark.parametrize("digits", [1, 16])
def test_one_fold_keeps_its_areas_and_offsets_between_folds_change_nothing(digits):
    target, prediction, fold, _ = draw(1, digits=digits)
    one = rank_within_folds(target, prediction, np.zeros(len(target)))
    assert metrics.roc_auc(target, one) == metrics.roc_auc(target, prediction)
    assert metrics.pauc_above_tpr(target, one) == pytest.approx(metrics.pauc_above_tpr(target, prediction), abs=1e-14)
    pooled = rank_within_folds(target, prediction, fold)
    shifted = rank_within_folds(target, prediction ** (1 + fold), fold)
    np.testing.assert_array_equal(pooled, shifted)
    assert metrics.roc_auc(target, prediction ** (1 + fold)) < metrics.roc_auc(target, pooled)


def test_a_fold_without_benign_rows_has_no_ranks():
    assert rank_within_folds([1, 1, 0], [0.1, 0.2, 0.3], [0, 0, 1]) is None


def test_influence_sums_to_zero_and_is_the_effect_of_one_more_patient():
    target, prediction, _, patient = draw(2)
    influence = auc_influence(target, prediction, patient)
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    auc, names = metrics.roc_auc(target, prediction), np.unique(patient)
    without = [metrics.roc_auc(target[patient != name], prediction[patient != name]) for name in names]
    np.testing.assert_allclose(auc - np.array(without), influence, atol=2e-3)
    assert np.corrcoef(auc - np.array(without), influence)[0, 1] > 0.99


def test_the_error_of_the_mean_is_that_of_a_bootstrap_by_patient():
    target, prediction, fold, patient = draw(3)
    columns = [(target[fold == k], prediction[fold == k], patient[fold == k]) for k in range(4)]
    found = mean_auc_spread(columns)
    assert 1 < found.degrees <= len(np.unique(patient[target == 1])) - 4
    rng, means = np.random.default_rng(0), []
    for _ in range(300):
        drawn = []
        for of, score, who in columns:
            rows = np.concatenate([np.flatnonzero(who == name) for name in rng.choice(np.unique(who), 20)])
            drawn.append(metrics.roc_auc(of[rows], score[rows]))
        means.append(np.mean(drawn))
    assert found.error == pytest.approx(np.std(means), rel=0.15)


def test_a_fold_with_few_malignant_patients_has_no_error():
    rng = np.random.default_rng(0)
    for fewest, known in ((4, False), (5, True)):
        columns = []
        for malignant in (20, fewest):
            target = np.repeat([1, 0], [malignant, 30])
            columns.append((target, rng.random(len(target)) + target, np.arange(len(target))))
        assert np.isfinite(mean_auc_spread(columns).error) == known


def test_a_fold_of_one_class_has_no_error():
    columns = [(np.array([0, 1, 0]), np.array([0.1, 0.4, 0.2]), np.arange(3)), (np.zeros(3), np.zeros(3), np.arange(3))]
    assert np.isnan(mean_auc_spread(columns).error)
