"""Swapped patients against metrics of rows that are really swapped, and p of models that are alike."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom, binomtest, chisquare

from jaxlesion.evaluation import metrics, permutation
from jaxlesion.evaluation.permutation import Model, holm, mid_ranks, swap_p
from jaxlesion.evaluation.units import Units


def draw(seed: int = 0, patients: int = 8, rows: int = 30, gain: float = 1.0, more: float = 0.0):
    """Return target, patient and two models' predictions [rows]; the second gains more."""
    rng = np.random.default_rng(seed)
    patient = np.concatenate([np.arange(patients), rng.integers(patients, size=rows - patients)])
    target = (rng.random(rows) < 0.3).astype(int)
    effect = rng.normal(size=patients)[patient]
    scores = [effect + gain * target + rng.normal(size=rows), effect + (gain + more) * target + rng.normal(size=rows)]
    return target, patient, *(np.round(1 / (1 + np.exp(-score)), 2) for score in scores)


def model(prediction, fold=None, at=0.5) -> Model:
    rows = len(prediction)
    rank = mid_ranks(prediction, np.zeros(rows) if fold is None else fold)
    return Model(prediction, rank, {"": np.full(rows, at)}, prediction)


def all_swaps(monkeypatch, patients: int) -> None:
    """Let every swap of the patients be drawn once."""
    every = np.array(list(itertools.product((0.0, 1.0), repeat=patients)))
    monkeypatch.setattr(permutation, "_swaps", lambda units, swaps, chunk, seed: iter([every.T.astype(np.uint8)]))


@pytest.mark.parametrize("key", ["roc_auc", "pauc", "brier", "malignant_recall"])
def test_p_is_the_share_of_swapped_rows_whose_difference_is_as_large(key, monkeypatch):
    target, patient, a, b = draw(3)
    all_swaps(monkeypatch, 8)
    ranks = [mid_ranks(one, np.zeros(30)) for one in (a, b)]
    columns = ranks if key in ("roc_auc", "pauc") else (a, b)
    of = {
        "roc_auc": metrics.roc_auc,
        "pauc": metrics.pauc_above_tpr,
        "brier": metrics.brier_score,
        "malignant_recall": lambda t, p: (p[t == 1] >= 0.5).mean(),
    }[key]
    found = []
    for swapped in itertools.product((False, True), repeat=8):
        rows = np.array(swapped)[patient]
        first, second = (np.where(rows, *pair) for pair in (columns[::-1], columns))
        found.append(of(target, first) - of(target, second))
    larger = np.sum(np.abs(found) >= abs(found[0]) - 1e-12)
    p = swap_p(target, patient, (model(a), model(b)), swaps=256)[key]
    assert p == pytest.approx((1 + larger) / 257)


def test_rows_that_are_alike_are_swapped_as_one_kind():
    target, _, a, b = draw(1, rows=400)
    both = (model(np.round(a, 1)), model(np.round(b, 1)))
    by_kind = swap_p(target, np.arange(400), both, swaps=4000)
    for name, view in permutation._views(both).items():
        assert len(permutation._units(target, np.arange(400), name, view).sizes) < 200
    one, other = (np.round(column, 1) for column in (a, b))
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        swapped = rng.random(400) < 0.5
        first, second = (np.where(swapped, y, x) for x, y in ((one, other), (other, one)))
        found.append(metrics.brier_score(target, first) - metrics.brier_score(target, second))
    observed = metrics.brier_score(target, one) - metrics.brier_score(target, other)
    assert by_kind["brier"] == pytest.approx(np.mean(np.abs(found) >= abs(observed)), abs=0.04)


def test_numbers_of_swapped_patients_are_binomial():
    sizes = np.array([1, 2, 8, 9, 64, 65, 300])
    drawn = np.concatenate([*permutation._swaps(Units(np.arange(7), sizes), 20_000, 6000, 0)], axis=1)
    assert drawn.shape == (7, 20_000)
    for size, numbers in zip(sizes, drawn, strict=True):
        expected = binom(size, 0.5).pmf(np.arange(size + 1))
        counts = np.bincount(numbers, minlength=size + 1)
        common = expected * len(numbers) > 5
        assert (
            chisquare(
                [*counts[common], counts[~common].sum() + 1e-9],
                [*expected[common] * 20_000, expected[~common].sum() * 20_000 + 1e-9],
            ).pvalue
            > 0.001
        )


def test_a_model_is_like_itself_however_sure_it_is_and_unlike_a_better_one():
    target, patient, a, _ = draw(4, patients=60, rows=300)
    same = swap_p(target, patient, (model(a), model(a**3)), swaps=200)  # the same ranks
    assert all(same[key] == 1 for key in ("roc_auc", "pauc", "pr_auc"))
    target, patient, a, b = draw(4, patients=60, rows=300, more=3)
    assert swap_p(target, patient, (model(a), model(b)), swaps=999)["roc_auc"] == 0.001


def test_ranks_are_those_within_the_fold():
    assert mid_ranks(np.array([0.1, 0.5, 0.5, 0.9, 0.2]), np.array([0, 0, 0, 1, 1])) == pytest.approx(
        [1 / 3, 2.5 / 3, 2.5 / 3, 1, 0.5]
    )


def test_calibrated_probabilities_are_swapped_where_they_are_known():
    target, patient, a, b = draw(5)
    known = [model(a)._replace(probability=a), model(b / 2)._replace(probability=a)]
    assert swap_p(target, patient, tuple(known), swaps=100)["brier"] == 1


def test_without_calibrated_probabilities_of_both_models_metrics_of_them_have_no_p():
    target, patient, a, b = draw(5)
    for models in ((model(a)._replace(probability=None), model(b)), (model(a), model(b)._replace(probability=None))):
        found = swap_p(target, patient, models, swaps=20)
        assert not {"brier", "log_loss", "ece"} & set(found)
        assert {"roc_auc", "malignant_recall"} <= set(found)


def test_an_undefined_difference_has_no_p():
    target, patient, a, b = draw(6)
    p = swap_p(target, patient, (model(a, at=2.0), model(b, at=2.0)), swaps=50)
    assert np.isnan(p["malignant_precision"])
    assert p["malignant_recall"] == 1


def test_holm_is_that_of_its_paper():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}
    assert holm({}) == {}


@pytest.mark.parametrize("malignant", [4, 16])
def test_alike_models_have_a_p_below_a_twentieth_in_a_twentieth_of_sets_at_most(malignant):
    rng, below = np.random.default_rng(malignant), 0
    for number in range(200):
        patient = np.repeat(np.arange(50), 3)
        target = ((np.arange(150) % 3 == 0) & (patient < malignant)).astype(int)
        effect = rng.normal(size=50)[patient]
        a, b = (1 / (1 + np.exp(-(1.5 * target + effect + rng.normal(size=150)))) for _ in range(2))
        below += swap_p(target, patient, (model(a), model(b**4)), swaps=99, seed=number)["roc_auc"] <= 0.05
    assert binomtest(below, 200, 0.05, alternative="greater").pvalue > 0.01
