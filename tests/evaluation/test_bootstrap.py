"""The bootstrap against metrics of physically resampled rows, known values, and simulated truth."""

import math

import numpy as np
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation import bootstrap as intervals
from jaxlesion.evaluation import metrics, registry
from jaxlesion.evaluation.bootstrap import Scores, difference, interval, resample

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


def drawn_rows(target, cluster, draws, seed):
    """Yield the row numbers of each resample, with repeats."""
    code, sizes, _ = intervals._strata(target, cluster)
    for weight in np.concatenate(list(intervals._weights(sizes, draws, 3, seed))):
        yield np.repeat(np.arange(len(target)), weight[code].astype(int))


@pytest.mark.parametrize("digits", [16, 1, 0], ids=["distinct", "tied", "two values"])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_every_draw_has_the_figures_of_the_rows_drawn(share, digits):
    patient, target, prediction = draw(1, share=share, digits=digits)
    chosen = np.where(patient % 2, 0.3, 0.7)
    one = Scores(prediction, {"": 0.5, "chosen_": chosen})
    samples = resample(target, [one], patient, resamples=8, seed=4).samples[0]
    assert set(samples) == HEADLINE | {f"chosen_{name}" for name in registry.rates(1, 1, 1, 1)}
    for i, rows in enumerate(drawn_rows(target, patient, 8, 4)):
        expected = registry.summary(target[rows], prediction[rows])
        at_chosen = registry.rates(*metrics.confusion(target[rows], prediction[rows], chosen[rows]))
        expected |= {f"chosen_{name}": value for name, value in at_chosen.items()}
        for name, sample in samples.items():
            assert sample[i] == pytest.approx(expected[name], rel=0, abs=1e-12, nan_ok=True), name


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
    for i, rows in enumerate(drawn_rows(target[order], np.arange(len(target)), 5, 0)):
        auc = metrics.roc_auc(target[order][rows], prediction[order][rows])
        assert by_row.samples[0]["roc_auc"][i] == pytest.approx(auc, rel=0, abs=1e-12)


def test_draws_keep_the_number_of_patients_with_a_malignant_lesion_and_of_those_without():
    patient, target, prediction = draw(3, patients=20, share=0.1)
    malignant = np.unique(patient[target == 1])
    result = resample(target, [Scores(prediction)], patient, resamples=1)
    assert result.by == "patient"
    assert result.clusters == (len(malignant), 20 - len(malignant))
    code, sizes, _ = intervals._strata(target, patient)
    weight = next(intervals._weights(sizes, 50, 50, 0))
    assert 1 < len(malignant) < 19
    assert set(code[np.isin(patient, malignant)]) == set(range(len(malignant)))
    assert (weight[:, : len(malignant)].sum(1) == len(malignant)).all()
    assert (weight.sum(1) == 20).all()


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
    assert difference(pair[0]["roc_auc"], pair[0]["roc_auc"]) == (0, 0, 1)


def test_difference_tells_better_from_alike():
    patient, target, _ = draw(6, patients=60, rows=600)
    noise = np.random.default_rng(0).random((3, 600))
    good, alike, bad = (noise[i] + gain * target for i, gain in enumerate((0.4, 0.4, 0.0)))
    scores = [Scores(s / 2) for s in (good, alike, bad)]
    good, alike, bad = (s["roc_auc"] for s in resample(target, scores, patient, resamples=300).samples)
    low, high, p = difference(good, bad)
    assert low > 0.1
    assert high < 0.5
    assert p == pytest.approx(2 / 301)  # none of 300 resamples is on the other side
    assert difference(bad, good) == pytest.approx((-high, -low, p))
    low, high, p = difference(good, alike)
    assert low < 0 < high
    assert p > 0.05


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
    assert undefined == {"roc_auc", "pr_auc", "pauc", *(name for name in HEADLINE if "_at_" in name)}


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


def simulate(rng, patients=100, lesions=8, shift=1.5):
    """Return patient, target, prediction [rows], and their true AUC between patients, Phi(shift / 2)."""
    patient = np.repeat(np.arange(patients), lesions)
    target = rng.random(len(patient)) < np.repeat(0.3 * (rng.random(patients) < 0.7), lesions)
    score = shift * target + np.repeat(rng.normal(size=patients), lesions) + rng.normal(size=len(patient))
    return patient, target.astype(int), 1 / (1 + np.exp(-score)), (1 + math.erf(shift / 2 / math.sqrt(2))) / 2


def coverage(sets: int, draws: int, by_patient: bool, seed: int = 0) -> float:
    """Return the share of simulated sets whose interval contains the true AUC."""
    rng, held = np.random.default_rng(seed), 0
    for i in range(sets):
        patient, target, prediction, truth = simulate(rng)
        samples = resample(
            target, [Scores(prediction)], patient if by_patient else None, resamples=draws, seed=i
        ).samples
        low, high = interval(samples[0]["roc_auc"])
        held += low <= truth <= high
    return held / sets


def test_intervals_by_patient_hold_the_truth_as_often_as_they_say_and_those_by_row_do_not():
    assert 0.92 <= coverage(250, 150, by_patient=True) <= 0.98
    assert coverage(80, 150, by_patient=False) < 0.92
