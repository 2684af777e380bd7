"""The bootstrap against metrics of physically resampled rows, known values, and simulated truth."""

import math

import numpy as np
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation import bootstrap as intervals
from jaxlesion.evaluation import metrics, registry
from jaxlesion.evaluation.bootstrap import Scores, difference, interval, resample
from jaxlesion.evaluation.units import counted, units_of

HEADLINE = {
    *("roc_auc", "pr_auc", "pauc", "log_loss", "brier", "ece"),
    *("sensitivity_at_90_specificity", "sensitivity_at_95_specificity"),
    *("specificity_at_90_sensitivity", "specificity_at_95_sensitivity"),
    *("hamming", "accuracy", "specificity"),
    *(f"{c}_{f}" for c in (*metrics.CLASSES, "macro", "weighted") for f in ("precision", "recall", "f1")),
}


def draw(seed: int = 0, patients: int = 12, rows: int = 90, share: float = 0.2, digits: int = 16):
    """Return patient, target and prediction, each [rows], with scores correlated within a patient."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(patients, size=rows)
    target = (rng.random(rows) < share).astype(int)
    score = rng.normal(size=patients)[patient] + rng.normal(size=rows) + 1.5 * target
    return patient, target, np.round(1 / (1 + np.exp(-score)), digits)


def drawn_rows(target, scores, cluster, draws, seed):
    """Yield the row numbers of each resample, with repeats; of rows that are alike, the first stands for all."""
    units = units_of_scores(target, scores, cluster)
    first = np.unique(units.kind, return_index=True)[1]
    for weight in np.concatenate(list(intervals.draws(units, draws, 3, seed))).astype(int):
        alike = units.sizes > 1
        whole = np.repeat(np.arange(len(target)), np.where(alike, 0, weight)[units.kind])
        yield np.concatenate([whole, np.repeat(first, np.where(alike, weight, 0))])


def units_of_scores(target, scores, cluster):
    """Return the units that `resample` draws."""
    thresholds = [{name: np.broadcast_to(at, target.shape) for name, at in one.thresholds.items()} for one in scores]
    name = None if cluster is None else np.unique(cluster, return_inverse=True)[1]
    none = [None] * len(scores)
    return intervals._units(target, name, [one.prediction for one in scores], none, thresholds, none)


def lacking(name: str, tn: int, fp: int, fn: int, tp: int) -> bool:
    """Return whether a rate divides 0 by 0, from its definition."""
    empty = {
        "benign_precision": tn + fn == 0,
        "malignant_precision": tp + fp == 0,
        "benign_recall": tn + fp == 0,
        "malignant_recall": tp + fn == 0,
        "benign_f1": tn + fn + fp == 0,
        "malignant_f1": tp + fn + fp == 0,
    }
    empty["specificity"] = empty["benign_recall"]
    kind, _, rate = name.removeprefix("chosen_").partition("_")
    if kind == "macro":
        return empty[f"benign_{rate}"] or empty[f"malignant_{rate}"]
    if kind == "weighted":  # a class without rows has no weight
        return (empty[f"benign_{rate}"] and tn + fp > 0) or (empty[f"malignant_{rate}"] and fn + tp > 0)
    return empty.get(name.removeprefix("chosen_"), False)


@pytest.mark.parametrize("digits", [16, 1, 0], ids=["distinct", "tied", "two values"])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_every_draw_has_the_figures_of_the_rows_drawn(share, digits):
    patient, target, prediction = draw(1, share=share, digits=digits)
    chosen = np.where(patient % 2, 0.3, 0.7)
    one = Scores(prediction, {"": 0.5, "chosen_": chosen})
    samples = resample(target, [one], patient, resamples=8, seed=4).samples[0]
    assert set(samples) == HEADLINE | {f"chosen_{name}" for name in registry.rates(1, 1, 1, 1)}
    for i, rows in enumerate(drawn_rows(target, [one], patient, 8, 4)):
        expected = registry.summary(target[rows], prediction[rows], {"": 0.5, "chosen_": chosen[rows]})
        for name, sample in samples.items():
            counts = metrics.confusion(target[rows], prediction[rows], chosen[rows] if "chosen" in name else 0.5)
            wanted = math.nan if lacking(name, *counts) else expected[name]
            assert sample[i] == pytest.approx(wanted, rel=0, abs=1e-12, nan_ok=True), name


def test_an_undefined_rate_is_nan_in_a_draw_and_never_0():
    patient = np.arange(60)
    target, prediction = (patient < 3).astype(int), np.where(patient == 0, 0.9, 0.1)
    found = resample(target, [Scores(prediction)], patient, resamples=400).samples[0]
    assert np.isnan(found["malignant_precision"]).mean() == pytest.approx((59 / 60) ** 60, abs=0.08)
    assert set(found["malignant_precision"][~np.isnan(found["malignant_precision"])]) == {1}
    assert np.isnan(found["malignant_recall"]).mean() == pytest.approx((57 / 60) ** 60, abs=0.05)


def test_drawing_rows_is_drawing_patients_of_one_row_each():
    _, target, prediction = draw(2)
    by_row = resample(target, [Scores(prediction)], resamples=5)
    assert by_row.by == "row"
    assert by_row.clusters == (target.sum(), (1 - target).sum())
    order = np.lexsort((prediction, target))
    named = resample(target[order], [Scores(prediction[order])], np.arange(len(target)), resamples=5)
    assert named.by == "row"
    for name, sample in by_row.samples[0].items():
        np.testing.assert_array_equal(sample, named.samples[0][name])
    for i, rows in enumerate(drawn_rows(target, [Scores(prediction)], None, 5, 0)):
        auc = metrics.roc_auc(target[rows], prediction[rows])
        assert by_row.samples[0]["roc_auc"][i] == pytest.approx(auc, rel=0, abs=1e-12)


def test_draws_take_all_patients_together():
    patient, target, prediction = draw(3, patients=20, share=0.1)
    malignant = np.unique(patient[target == 1])
    result = resample(target, [Scores(prediction)], patient, resamples=1)
    assert result.by == "patient"
    assert result.clusters == (len(malignant), 20 - len(malignant))
    units = units_of_scores(target, [Scores(prediction)], patient)
    weight = next(intervals.draws(units, 4000, 4000, 0))
    assert (weight.sum(1) == 20).all()
    of_malignant = weight[:, np.unique(units.kind[np.isin(patient, malignant)])].sum(1)
    share = len(malignant) / 20
    assert of_malignant.mean() == pytest.approx(20 * share, rel=0.03)
    assert of_malignant.var() == pytest.approx(20 * share * (1 - share), rel=0.1)


def test_rows_that_are_alike_are_drawn_as_one_kind():
    rng = np.random.default_rng(0)
    target = np.r_[np.ones(20, int), np.zeros(20_000, int)]
    prediction = 1 / (1 + np.exp(6 - 2 * target - rng.normal(size=len(target))))
    units = units_of_scores(target, [Scores(prediction)], None)
    assert units.number == len(target)
    assert len(units.sizes) < 3000
    alike = units_of(None, counted(target, prediction, {"": np.full(len(target), 0.5)}))
    assert len(alike.sizes) <= 3 * 20 + 1 + 1  # the threshold cuts one gap


def test_means_of_rows_vary_as_theory_says():
    rng = np.random.default_rng(1)
    target = (rng.random(5000) < 0.02).astype(int)
    prediction = np.clip(0.02 + 0.02 * rng.normal(size=5000) + 0.2 * target * rng.random(5000), 0.001, 0.9)
    samples = resample(target, [Scores(prediction)], resamples=4000).samples[0]
    loss = (prediction - target) ** 2
    assert samples["brier"].mean() == pytest.approx(loss.mean(), abs=loss.std() / 5000**0.5 / 15)
    assert samples["brier"].std() == pytest.approx(loss.std() / 5000**0.5, rel=0.04)
    nats = -np.log(np.where(target, prediction, 1 - prediction))
    assert samples["log_loss"].std() == pytest.approx(nats.std() / 5000**0.5, rel=0.04)


@pytest.mark.parametrize("by_patient", [True, False])
def test_neither_order_of_rows_nor_size_of_chunks_changes_a_draw(by_patient, monkeypatch):
    patient, target, prediction = draw(4, digits=2)
    order = np.random.default_rng(0).permutation(len(target))
    names = np.array([f"IP_{p:02d}" for p in patient], object)
    one = resample(target, [Scores(prediction)], names if by_patient else None, resamples=20)
    other = resample(target[order], [Scores(prediction[order])], names[order] if by_patient else None, resamples=20)
    monkeypatch.setattr(intervals, "ELEMENTS", 100)
    done = []
    chunked = resample(target, [Scores(prediction)], names if by_patient else None, resamples=20, tick=done.append)
    assert len(done) > 3
    assert sum(done) == 20
    for name, sample in one.samples[0].items():
        np.testing.assert_array_equal(sample, other.samples[0][name])
        np.testing.assert_allclose(sample, chunked.samples[0][name], rtol=0, atol=1e-12)


def test_two_scores_share_their_draws():
    patient, target, prediction = draw(5)
    other = prediction**3  # the same ranks
    pair = resample(target, [Scores(prediction), Scores(other)], patient, resamples=50).samples
    alone = resample(target, [Scores(prediction)], patient, resamples=50).samples[0]
    for name, sample in alone.items():
        np.testing.assert_allclose(pair[0][name], sample, rtol=0, atol=1e-12)
    for name in ("roc_auc", "pr_auc", "pauc"):
        np.testing.assert_allclose(pair[0][name], pair[1][name], rtol=0, atol=1e-12)
    assert difference(pair[0]["roc_auc"], pair[0]["roc_auc"]) == (0, 0)


def test_difference_tells_better_from_alike():
    patient, target, _ = draw(6, patients=60, rows=600)
    noise = np.random.default_rng(0).random((3, 600))
    good, alike, bad = (noise[i] + gain * target for i, gain in enumerate((0.4, 0.4, 0.0)))
    scores = [Scores(s / 2) for s in (good, alike, bad)]
    good, alike, bad = (s["roc_auc"] for s in resample(target, scores, patient, resamples=300).samples)
    low, high = difference(good, bad)
    assert low > 0.1
    assert high < 0.5
    assert difference(bad, good) == pytest.approx((-high, -low))
    low, high = difference(good, alike)
    assert low < 0 < high
    wide = difference(good, alike, units=10)
    assert wide[0] < low < high < wide[1]


def test_interval_is_of_percentiles_and_withheld_where_draws_lack_a_class():
    sample = np.arange(1, 200) / 200
    assert interval(sample) == pytest.approx((0.025, 0.975))
    assert interval(sample, level=0.5) == pytest.approx((0.25, 0.75))
    assert interval(np.append(sample, np.nan)) == pytest.approx((0.025, 0.975))
    assert interval(np.append(sample, np.full(11, np.nan))) is None
    assert interval(np.full(5, np.nan)) is None
    assert difference(sample, np.full(199, np.nan)) is None


def test_perfect_predictions_are_perfect_in_every_draw():
    patient, target, _ = draw(7)
    samples = resample(target, [Scores(target)], patient, resamples=20).samples[0]
    assert all((samples[name] == 1).all() for name in ("roc_auc", "pr_auc", "accuracy", "malignant_f1"))
    np.testing.assert_allclose(samples["pauc"], 0.2, rtol=0, atol=1e-12)
    assert (samples["brier"] == 0).all()


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_has_intervals_of_what_is_defined(only):
    patient, target, prediction = draw(8)
    samples = resample(np.full(len(target), only), [Scores(prediction)], patient, resamples=40).samples[0]
    undefined = {name for name, sample in samples.items() if interval(sample) is None}
    # Neither class is ever called alone here, so that only rates of rows that are absent are undefined as well.
    absent = f"{metrics.CLASSES[1 - only]}_recall"
    wanted = {"roc_auc", "pr_auc", "pauc", "macro_recall", absent, *(name for name in HEADLINE if "_at_" in name)}
    assert undefined == wanted | ({"specificity"} if only else set())


def test_what_patients_cannot_tell_has_no_interval():
    _, target, prediction = draw(9)
    alone = resample(target, [Scores(prediction)], np.zeros(len(target)), resamples=20).samples[0]
    assert all(interval(sample) is None for sample in alone.values())
    patient = np.where(target == 1, -1, np.arange(len(target)))  # all malignant rows belong to one patient
    one_malignant = resample(target, [Scores(prediction)], patient, resamples=200).samples[0]
    assert interval(one_malignant["roc_auc"]) is None
    assert interval(one_malignant["accuracy"]) is not None


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="0 draws"):
        resample([0, 1], [Scores([0.1, 0.2])], resamples=0)
    with pytest.raises(InputError, match="outside"):
        resample([0, 1], [Scores([0.1, 1.2])])
