"""Prior correction gives the posterior, the temperature is optimal, and no fold is fitted on itself."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit as sigmoid
from sklearn.linear_model import LogisticRegression

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.calibration import (
    Calibration,
    FoldCalibration,
    calibrate,
    fit,
    fit_temperature,
    from_dict,
    logit,
    prior_offset,
)
from jaxlesion.evaluation.metrics import log_loss, roc_auc


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def refused(action, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


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
    np.testing.assert_allclose(calibrate(learnt, offset, 1), malignant / (malignant + benign), rtol=1e-5)


def test_simulated_scores_become_calibrated(rng):
    target = rng.random(400_000) < 0.01
    score = rng.normal(2.0 * target)
    truth = sigmoid(logit(0.01) + 2 * score - 2)  # two normals of standard deviation 1 with means 2 apart
    kept = target | (rng.random(len(target)) < 0.05)
    sampled = 1 / (1 + np.exp(-(logit(0.01) - np.log(0.05) + 2 * score - 2)))  # the posterior of kept rows
    assert sampled[kept].mean() == pytest.approx(target[kept].mean(), rel=0.02)
    assert sampled.mean() > 5 * target.mean()
    corrected = calibrate(sampled, prior_offset(5, 100), 1)
    np.testing.assert_allclose(corrected, truth, rtol=1e-9)
    assert corrected.mean() == pytest.approx(target.mean(), rel=0.03)


def test_the_offset_is_that_of_king_and_zeng():
    positives, negatives, kept = 393, 400_666, 4_007
    tau, sampled = positives / (positives + negatives), positives / (positives + kept)
    assert prior_offset(kept, negatives) == pytest.approx(-np.log((1 - tau) / tau * sampled / (1 - sampled)))


def test_keeping_all_rows_changes_nothing(rng):
    p = rng.random(50)
    np.testing.assert_allclose(calibrate(p, prior_offset(7, 7), 1), p, rtol=1e-12)


@pytest.mark.parametrize("counts", [(0, 5, 1.0), (6, 5, 1.0), (0, 0, 1.0), (3, 5, 0.0)])
def test_counts_that_no_training_has(counts):
    refused(lambda: prior_offset(*counts), "no prior")


def test_saturated_predictions_stay_finite_and_last():
    p = np.array([0, 1e-37, 1e-9, 0.5, 1 - 2**-24, 1], np.float32)
    assert np.isfinite(logit(p)).all()
    assert (np.diff(logit(p)) > 0).all()
    np.testing.assert_array_equal(sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])


# the temperature


def calibrated_rows(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with exactly the predicted share of malignant ones, and their log odds times `scale`."""
    shares = [(1, 99), (5, 45), (20, 20), (9, 1)]
    target = np.concatenate([np.repeat([1, 0], pair) for pair in shares])
    return target, scale * np.concatenate([np.full(a + b, np.log(a / b)) for a, b in shares])


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.3, 40.0])
def test_the_temperature_undoes_a_scale(scale):
    assert fit_temperature(*calibrated_rows(scale)) == pytest.approx(scale, rel=1e-9)


def test_doubled_logits_have_twice_the_temperature(rng):
    target, z = rng.random(500) < 0.2, rng.normal(size=500)
    z += target
    assert fit_temperature(target, 2 * z) == pytest.approx(2 * fit_temperature(target, z), rel=1e-9)


def test_no_temperature_has_a_lower_loss(rng):
    target = rng.random(2000) < 0.05
    z = 3 * rng.normal(size=2000) + 4 * target - 4
    best = fit_temperature(target, z)
    loss = log_loss(target, sigmoid(z / best))
    assert 1.1 < best < 10
    assert all(log_loss(target, sigmoid(z / t)) > loss for t in best * np.array([0.5, 0.99, 1.01, 2]))


def test_what_has_no_finite_optimum_stops_at_the_ends():
    target, z = np.array([0, 0, 1, 1]), np.array([-2.0, -1, 1, 2])
    assert fit_temperature(target, z) == fit_temperature(target, 1000 * z) == pytest.approx(1 / 100)
    assert fit_temperature(target, -z) == fit_temperature([0, 1], [3, 3]) == pytest.approx(100)
    assert fit_temperature(target, 0 * z) == 1


def newton(target: np.ndarray, z: np.ndarray) -> float:
    """Return the temperature by Newton's method on the loss as a function of 1 / T, from 1."""
    inverse = 1.0
    for _ in range(100):
        p = sigmoid(inverse * z)
        inverse -= np.mean((p - target) * z) / np.mean(p * (1 - p) * z**2)
    return 1 / inverse


@pytest.mark.parametrize(("scale", "gain"), [(1, 1), (0.3, 0.5), (1, 2), (1, 0.2)])
def test_the_temperature_is_that_of_newtons_method(scale, gain, rng):
    target = rng.random(900) < 0.3
    z = scale * (rng.normal(size=900) + gain * target)
    assert fit_temperature(target, z) == pytest.approx(newton(target, z), rel=1e-9)


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_has_no_temperature(value):
    refused(lambda: fit_temperature(np.full(3, value), np.arange(3)), f"{3 * value} of 3 rows", "both")


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


def test_a_fit_is_offset_and_temperature_by_definition(columns):
    target, prediction, fold = columns
    found = fit(*columns, MODELS, NEGATIVES, 2.0)
    z = logit(prediction) + np.log(np.select([fold == 0, fold == 2], [0.1, 0.3], 0.5)) - np.log(2)
    assert found.temperature == pytest.approx(fit_temperature(target, z), rel=1e-12)
    assert [f.fold for f in found.folds] == [0, 2, 3]
    for f in found.folds:
        held_out = fold == f.fold
        assert (f.rows, f.positives) == (300, target[held_out].sum())
        assert (f.model, f.negatives_kept, f.negatives) == (MODELS[f.fold], *NEGATIVES[f.fold])
        assert f.temperature == pytest.approx(fit_temperature(target[~held_out], z[~held_out]), rel=1e-12)
        np.testing.assert_allclose(
            found.out_of_fold(prediction, fold)[held_out], sigmoid(z[held_out] / f.temperature), rtol=1e-12
        )


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
    assert one.temperature != other.temperature


def test_no_ranking_within_a_fold_changes(columns):
    target, prediction, fold = columns
    calibrated = fit(*columns, MODELS, NEGATIVES, 1.0).out_of_fold(prediction, fold)
    for k in MODELS:
        held_out = fold == k
        assert roc_auc(target[held_out], calibrated[held_out]) == roc_auc(target[held_out], prediction[held_out])


def test_of_a_single_fold_only_the_prior_is_corrected_out_of_fold(columns):
    target, prediction, fold = (column[:300] for column in columns)
    found = fit(target, prediction, fold, MODELS, NEGATIVES, 1.0)
    assert found.folds[0].temperature is None
    assert found.temperature != 1
    np.testing.assert_array_equal(found.out_of_fold(prediction, fold), calibrate(prediction, np.log(0.1), 1))


def test_rows_may_come_in_any_order(columns, rng):
    order = rng.permutation(900)
    one, other = fit(*columns, MODELS, NEGATIVES, 1.0), fit(*(c[order] for c in columns), MODELS, NEGATIVES, 1.0)
    assert one.temperature == pytest.approx(other.temperature, rel=1e-12)
    _, prediction, fold = columns
    np.testing.assert_allclose(
        one.out_of_fold(prediction, fold)[order], other.out_of_fold(prediction[order], fold[order]), rtol=1e-12
    )


def test_new_rows_get_the_mean_of_the_folds_calibrated_probabilities(columns, rng):
    found = fit(*columns, MODELS, NEGATIVES, 1.0)
    each = rng.random((5, 2)).astype(np.float32)
    expected = [
        sigmoid((logit(each[:, i]) + np.log(r)) / found.temperature) for i, r in enumerate((0.5, 0.1))
    ]  # from folds 3 and 0
    np.testing.assert_allclose(found.new_rows(each, ["fold_3/9", "fold_0/8"]), np.mean(expected, 0), rtol=1e-12)
    refused(lambda: found.new_rows(each, ["fold_3/9", "fold_0/7"]), "fold_0/7", "--checkpoint last")


def test_a_mean_of_probabilities_adds_up_to_the_malignant_rows_and_one_of_logits_does_not(rng):
    """Combine five calibrated folds, whose scores have independent noise; 1 in 500 rows is malignant."""
    target = rng.random(400_000) < 0.002
    score = rng.normal(2.0 * target)[:, None] + rng.normal(size=(len(target), 5))
    z = logit(0.002) + score - 1  # two normals of variance 2 with means 2 apart
    fold = {"negatives": 1, "negatives_kept": 1, "offset": 0.0, "rows": 1, "positives": 1, "temperature": None}
    found = Calibration(1.0, tuple(FoldCalibration(fold=k, model=f"fold_{k}/1", **fold) for k in range(5)))
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
        {"temperature": float("nan")},
        {"temperature": 0},
        {"temperature": "hot"},
        {"folds": []},
        {"folds": [{"fold": 0}]},
        {"folds": 3},
        {"folds": [{"offset": float("inf")}]},
        {"folds": [{"pace": 1}]},
    ],
)
def test_a_damaged_file_is_named(columns, change):
    stored = dataclasses.asdict(fit(*columns, MODELS, NEGATIVES, 1.0))
    if change.get("folds") and isinstance(change["folds"], list) and change["folds"] != [{"fold": 0}]:
        change = {"folds": [stored["folds"][0] | change["folds"][0]]}
    refused(lambda: from_dict(stored | change, "there/calibration.json"), "there/calibration.json", "damaged")
    refused(lambda: from_dict([], "there/calibration.json"), "damaged")


def test_a_fold_that_is_not_calibrated(columns):
    found = fit(*columns, MODELS, NEGATIVES, 1.0)
    refused(lambda: found.out_of_fold([0.5, 0.5], [0, 1]), "lacks fold 1")
