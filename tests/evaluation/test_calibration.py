"""Prior correction gives the posterior, the line is optimal, and no fold is fitted on itself."""

import dataclasses
import json

import numpy as np
import pytest
from refusals import refused
from scipy.special import expit as sigmoid
from sklearn.linear_model import LogisticRegression

from experiments.calibration_check import WORLDS, by_temperature, simulate
from jaxlesion.evaluation.calibration import (
    AllRowsCalibration,
    Calibration,
    FoldCalibration,
    calibrate,
    fit,
    fit_line,
    from_dict,
    logit,
    prior_offset,
)
from jaxlesion.evaluation.metrics import log_loss, roc_auc


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


# the prior


@pytest.mark.parametrize("pos_weight", [1.0, 4.0])
def test_what_is_learnt_from_sampled_rows_becomes_the_posterior_of_all_rows(pos_weight):
    """Minimise the weighted loss on four kinds of images, with exactly 1 in 100 benign rows of each kept."""
    malignant, benign = np.array([1, 3, 10, 40]), np.array([200_000, 90_000, 30_000, 5_000])
    kept = benign // 100
    kind = np.tile(np.arange(4), 2)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
    model.fit(np.eye(4)[kind], np.repeat([1, 0], 4), sample_weight=np.append(pos_weight * malignant, kept))
    learnt = model.predict_proba(np.eye(4))[:, 1]
    offset = prior_offset(int(kept.sum()), int(benign.sum()), pos_weight)
    np.testing.assert_allclose(calibrate(learnt, offset), malignant / (malignant + benign), rtol=1e-5)


def test_simulated_scores_become_calibrated(rng):
    target = rng.random(400_000) < 0.01
    score = rng.normal(2.0 * target)
    truth = sigmoid(logit(0.01) + 2 * score - 2)  # two normals of standard deviation 1 with means 2 apart
    kept = target | (rng.random(len(target)) < 0.05)
    sampled = 1 / (1 + np.exp(-(logit(0.01) - np.log(0.05) + 2 * score - 2)))  # the posterior of kept rows
    assert sampled[kept].mean() == pytest.approx(target[kept].mean(), rel=0.02)
    assert sampled.mean() > 5 * target.mean()
    corrected = calibrate(sampled, prior_offset(5, 100))
    np.testing.assert_allclose(corrected, truth, rtol=1e-9)
    assert corrected.mean() == pytest.approx(target.mean(), rel=0.03)


def test_the_offset_is_that_of_king_and_zeng():
    positives, negatives, kept = 393, 400_666, 4_007
    tau, sampled = positives / (positives + negatives), positives / (positives + kept)
    assert prior_offset(kept, negatives) == pytest.approx(-np.log((1 - tau) / tau * sampled / (1 - sampled)))


def test_keeping_all_rows_changes_nothing(rng):
    p = rng.random(50)
    np.testing.assert_allclose(calibrate(p, prior_offset(7, 7)), p, rtol=1e-12)


@pytest.mark.parametrize("counts", [(0, 5, 1.0), (6, 5, 1.0), (0, 0, 1.0), (3, 5, 0.0)])
def test_counts_that_no_training_has(counts):
    refused(lambda: prior_offset(*counts), "no prior")


def test_saturated_predictions_stay_finite_and_last():
    p = np.array([0, 1e-37, 1e-9, 0.5, 1 - 2**-24, 1], np.float32)
    assert np.isfinite(logit(p)).all()
    assert (np.diff(logit(p)) > 0).all()
    np.testing.assert_array_equal(sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])


# the line


def rows_of_known_risk(a: float = 0.0, b: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with exactly the share of malignant ones that a + b z says, and their z."""
    shares = [(1, 99), (5, 45), (20, 20), (9, 1)]
    target = np.concatenate([np.repeat([1, 0], pair) for pair in shares])
    return target, np.concatenate([np.full(m + n, (np.log(m / n) - a) / b) for m, n in shares])


@pytest.mark.parametrize(("a", "b"), [(0, 1), (-5, 0.6), (0.3, 1 / 0.3), (40, 0.025)])
def test_the_line_undoes_another(a, b):
    assert fit_line(*rows_of_known_risk(a, b)) == (pytest.approx(a, abs=1e-8), pytest.approx(b, rel=1e-9), None)


@pytest.mark.parametrize(("scale", "gain"), [(1, 1), (0.3, 0.5), (1, 2), (1, 0.2)])
def test_the_line_is_that_of_scikit_learn(scale, gain, rng):
    target = rng.random(900) < 0.3
    z = scale * (rng.normal(size=900) + gain * target)
    expected = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(z[:, None], target)
    found = fit_line(target, z)
    assert (found.a, found.b) == (pytest.approx(expected.intercept_[0]), pytest.approx(expected.coef_[0, 0]))


def test_no_line_has_a_lower_loss(rng):
    target = rng.random(4000) < 0.05
    z = 3 * rng.normal(size=4000) + 4 * target - 4
    a, b, _ = fit_line(target, z)
    loss = log_loss(target, sigmoid(a + b * z))
    assert all(
        log_loss(target, sigmoid(a + da + (b + db) * z)) > loss for da, db in [(0.1, 0), (0, 0.02), (-0.1, 0.02)]
    )


@pytest.mark.parametrize(
    ("target", "z", "why"),
    [
        ([1] * 19 + [0] * 100, [2, 3, 5] * 39 + [2, 3], "19 malignant rows, fewer than 20"),
        ([1] * 30 + [0] * 30, [1.0] * 30 + [-1.0] * 30, "no benign row above a malignant one"),
        ([1] * 30 + [0] * 30, [-1.0] * 30 + [1.0] * 30, "no slope above 0"),
        ([1] * 30 + [0] * 30, [-1.0, 1] * 15 + [1.0] * 30, "no slope above 0"),
        ([1] * 30 + [0] * 30, [0.0] * 60, "no slope above 0"),
        ([1] * 30 + [0] * 30, [87.0] * 59 + [-80], "no benign row above a malignant one"),
    ],
)
def test_without_a_slope_the_intercept_alone_is_fitted_and_that_is_said(target, z, why):
    a, b, said = fit_line(target, z)
    assert (b, said) == (1, why)
    assert sigmoid(a + np.array(z)).sum() == pytest.approx(sum(target))


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_has_no_line(value):
    refused(lambda: fit_line(np.full(3, value), np.arange(3)), f"{3 * value} of 3 rows", "both")


# known truth


@pytest.mark.parametrize("world", [WORLDS[0], WORLDS[3], WORLDS[6]])
def test_calibrated_predictions_are_the_true_risks_on_average(world):
    """Allow what the table of docs/calibration.md allows, and two standard errors of these 12 sets."""
    found = simulate(world, 12, rows=50_000)
    error = 2 * found.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - 1) < np.array([0.05, 0.1, 0.2]) + error).all()


def test_a_temperature_after_the_offset_is_far_from_the_true_risks():
    found = simulate(WORLDS[0], 4, rows=50_000, calibrate=by_temperature).mean(0)
    assert found[0] > 1.3
    assert found[1] < 0.8
    assert found[2] > 2


# folds

MODELS = {0: "fold_0/8", 2: "fold_2/9", 3: "fold_3/9"}
NEGATIVES = {0: (10, 100), 2: (30, 100), 3: (50, 100)}


@pytest.fixture
def columns(rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return target, prediction and fold of 900 held-out rows."""
    fold = np.repeat([0, 2, 3], 300)
    target = (rng.random(900) < 0.2).astype(int)
    prediction = sigmoid(rng.normal(2 * target - 1, 1 + fold / 4)).astype(np.float32)
    return target, prediction, fold


def test_a_fit_is_offset_and_line_by_definition(columns):
    target, prediction, fold = columns
    found = fit(*columns, MODELS, NEGATIVES, 2.0)
    z = logit(prediction) + np.log(np.select([fold == 0, fold == 2], [0.1, 0.3], 0.5)) - np.log(2)
    assert (found.a, found.b) == pytest.approx(fit_line(target, z)[:2])
    assert found.notes() == []
    assert [f.fold for f in found.folds] == [0, 2, 3]
    for f in found.folds:
        held_out = fold == f.fold
        assert (f.rows, f.positives) == (300, target[held_out].sum())
        assert (f.model, f.negatives_kept, f.negatives) == (MODELS[f.fold], *NEGATIVES[f.fold])
        assert (f.a, f.b) == pytest.approx(fit_line(target[~held_out], z[~held_out])[:2])
        np.testing.assert_allclose(
            found.out_of_fold(prediction, fold)[held_out], sigmoid(f.a + f.b * z[held_out]), rtol=1e-12
        )


def test_folds_without_a_slope_are_named(columns):
    target, prediction, fold = columns
    few = np.flatnonzero((target == 1) & (fold != 0))[10:]
    found = fit(np.delete(target, few), np.delete(prediction, few), np.delete(fold, few), MODELS, NEGATIVES, 1.0)
    assert found.folds[0].b == 1
    assert found.notes() == [
        "calibrated by an intercept alone, without a slope: fold 0 (10 malignant rows, fewer than 20)"
    ]


@pytest.mark.parametrize("k", MODELS)
def test_a_folds_calibrated_predictions_do_not_depend_on_its_targets(columns, k):
    target, prediction, fold = columns
    held_out = fold == k
    one, other = (
        fit(t, prediction, fold, MODELS, NEGATIVES, 1.0) for t in (target, np.where(held_out, 1 - target, target))
    )
    np.testing.assert_array_equal(
        one.out_of_fold(prediction, fold)[held_out], other.out_of_fold(prediction, fold)[held_out]
    )
    assert one.a != other.a


def test_no_ranking_within_a_fold_changes(columns):
    target, prediction, fold = columns
    calibrated = fit(*columns, MODELS, NEGATIVES, 1.0).out_of_fold(prediction, fold)
    for k in MODELS:
        held_out = fold == k
        assert roc_auc(target[held_out], calibrated[held_out]) == roc_auc(target[held_out], prediction[held_out])


def test_of_a_single_fold_only_the_prior_is_corrected_out_of_fold(columns):
    target, prediction, fold = (column[:300] for column in columns)
    found = fit(target, prediction, fold, MODELS, NEGATIVES, 1.0)
    assert found.folds[0].a is found.folds[0].b is None
    assert found.b != 1
    assert found.notes() == ["out of fold only the prior is corrected: intercept and slope take other folds"]
    np.testing.assert_array_equal(found.out_of_fold(prediction, fold), calibrate(prediction, np.log(0.1)))


def test_rows_may_come_in_any_order(columns, rng):
    order = rng.permutation(900)
    one, other = fit(*columns, MODELS, NEGATIVES, 1.0), fit(*(c[order] for c in columns), MODELS, NEGATIVES, 1.0)
    assert (one.a, one.b) == (pytest.approx(other.a, rel=1e-9), pytest.approx(other.b, rel=1e-9))
    _, prediction, fold = columns
    np.testing.assert_allclose(
        one.out_of_fold(prediction, fold)[order], other.out_of_fold(prediction[order], fold[order]), rtol=1e-9
    )


def test_new_rows_get_the_mean_of_the_folds_calibrated_probabilities(columns, rng):
    found = fit(*columns, MODELS, NEGATIVES, 1.0)
    each = rng.random((5, 2)).astype(np.float32)
    expected = [
        sigmoid(found.a + found.b * (logit(each[:, i]) + np.log(r))) for i, r in enumerate((0.5, 0.1))
    ]  # from folds 3 and 0
    np.testing.assert_allclose(found.new_rows(each, ["fold_3/9", "fold_0/8"]), np.mean(expected, 0), rtol=1e-12)
    refused(lambda: found.new_rows(each, ["fold_3/9", "fold_0/7"]), "fold_0/7", "--checkpoint last")


def test_a_mean_of_probabilities_adds_up_to_the_malignant_rows_and_one_of_logits_does_not(rng):
    """Combine five calibrated folds, whose scores have independent noise; 1 in 500 rows is malignant."""
    target = rng.random(400_000) < 0.002
    score = rng.normal(2.0 * target)[:, None] + rng.normal(size=(len(target), 5))
    z = logit(0.002) + score - 1  # two normals of variance 2 with means 2 apart
    fold = {"negatives": 1, "negatives_kept": 1, "offset": 0.0, "rows": 1, "positives": 1}
    found = Calibration(0.0, 1.0, None, tuple(FoldCalibration(fold=k, model=f"fold_{k}/1", **fold) for k in range(5)))
    mean = found.new_rows(sigmoid(z), [f"fold_{k}/1" for k in range(5)])
    assert mean.sum() == pytest.approx(target.sum(), rel=0.07)  # two standard deviations of a Poisson count
    assert sigmoid(z.mean(1)).sum() < 0.8 * target.sum()


# stored values


def test_what_is_stored_is_read_back(columns):
    for rows in (slice(None), slice(300)):  # several folds, and one
        found = fit(*(c[rows] for c in columns), MODELS, NEGATIVES, 1.0)
        assert from_dict(json.loads(json.dumps(dataclasses.asdict(found))), "c.json") == found


@pytest.mark.parametrize(
    "change",
    [
        {"a": float("nan")},
        {"b": 0},
        {"b": "steep"},
        {"slope_fixed": 3},
        {"folds": []},
        {"folds": [{"fold": 0}]},
        {"folds": 3},
        {"all_rows": {"model": "fold_none/9"}},
        {"all_rows": {"model": "fold_none/9", "negatives": 9, "negatives_kept": 3, "offset": float("nan")}},
        {"folds": [{"offset": float("inf")}]},
        {"folds": [{"pace": 1}]},
        {"folds": [{"a": None}]},
        {"folds": [{"b": -1.0}]},
    ],
)
def test_a_damaged_file_is_named(columns, change):
    stored = dataclasses.asdict(fit(*columns, MODELS, NEGATIVES, 1.0))
    if change.get("folds") and isinstance(change["folds"], list) and change["folds"] != [{"fold": 0}]:
        change = {"folds": [stored["folds"][0] | change["folds"][0]]}
    refused(lambda: from_dict(stored | change, "there/calibration.json"), "there/calibration.json", "damaged")
    refused(lambda: from_dict([], "there/calibration.json"), "damaged")


def test_one_of_before_the_model_of_all_rows_is_read(columns):
    found = fit(*columns, MODELS, NEGATIVES, 1.0)
    stored = dataclasses.asdict(found)
    assert stored.pop("all_rows") is None
    assert from_dict(stored, "c.json") == found


def test_the_model_of_all_rows_has_the_line_of_the_folds_and_its_own_prior(columns):
    found = fit(*columns, MODELS, NEGATIVES, 1.0)
    one = dataclasses.replace(found, all_rows=AllRowsCalibration("fold_none/9", 100, 25, prior_offset(25, 100)))
    expected = calibrate([0.2, 0.7], np.log(0.25), found.a, found.b)
    np.testing.assert_allclose(one.new_rows(np.array([[0.2], [0.7]]), ["fold_none/9"]), expected, rtol=1e-12)
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(one))), "c.json") == one
    refused(lambda: found.new_rows(np.array([[0.2]]), ["fold_none/9"]), "fold_none/9", "train --resume")


def test_a_fold_that_is_not_calibrated(columns):
    found = fit(*columns, MODELS, NEGATIVES, 1.0)
    refused(lambda: found.out_of_fold([0.5, 0.5], [0, 1]), "lacks fold 1")


def test_a_temperature_of_an_earlier_version_is_refused_with_what_to_do(columns):
    stored = dataclasses.asdict(fit(*columns, MODELS, NEGATIVES, 1.0))
    old = {"temperature": 1.2, "folds": stored["folds"]}
    refused(lambda: from_dict(old, "there/calibration.json"), "there/calibration.json", "temperature", "train --resume")
