"""Metrics against scikit-learn, known values, and published values for real predictions."""

import csv
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation import metrics, registry
from jaxlesion.evaluation.statistics import Rows, calibration_bin

EXACT = {"rel": 0, "abs": 1e-12}
AREAS = (metrics.roc_auc, metrics.pr_auc, metrics.pauc_above_tpr)
RANKED = (
    *AREAS,
    lambda target, prediction: metrics.sensitivity_at_specificity(target, prediction, 0.9),
    lambda target, prediction: metrics.specificity_at_sensitivity(target, prediction, 0.9),
)
CURVES = (metrics.roc_curve, metrics.precision_recall_curve)
PROBABILISTIC = (metrics.log_loss, metrics.brier_score, metrics.expected_calibration_error)
OPERATING = [
    *("sensitivity_at_90_specificity", "sensitivity_at_95_specificity"),
    *("specificity_at_90_sensitivity", "specificity_at_95_sensitivity"),
]
SHARED = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "reference"
KEYS = [
    *("n", "positives", "positive_to_negative", "roc_auc", "pauc", "pr_auc", *OPERATING, "log_loss", "brier", "ece"),
    *("threshold", "tn", "fp", "fn", "tp", "predicted_positives", "benign_support", "malignant_support"),
    *("accuracy", "hamming", "specificity", "benign_precision", "benign_recall", "benign_f1"),
    *("malignant_precision", "malignant_recall", "malignant_f1"),
    *("macro_precision", "macro_recall", "macro_f1", "weighted_precision", "weighted_recall", "weighted_f1"),
]

sigmoids = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1, width=32), st.floats(0, 1))
row_lists = st.lists(st.tuples(st.integers(0, 1), sigmoids), min_size=1, max_size=60)
two_classes = row_lists.filter(lambda rows: len({target for target, _ in rows}) == 2)
repeatable = settings(deadline=None, derandomize=True, max_examples=60)


def columns(rows):
    target, prediction = zip(*rows, strict=True)
    return np.array(target), np.array(prediction)


def draw(kind: str):
    rng = np.random.default_rng(7)
    n, rate, digits = {
        "random": (3000, 0.5, 16),
        "tied": (3000, 0.3, 1),
        "imbalanced": (40_000, 0.001, 16),
        "imbalanced and tied": (40_000, 0.001, 3),
        "tiny": (5, 0.5, 16),
    }[kind]
    target = (rng.random(n) < rate).astype(int)
    target[:2] = 0, 1
    return target, np.round(np.clip(rng.beta(1, 4, n) + 0.2 * target * rng.random(n), 0, 1), digits)


def challenge_score(target, prediction, m: float = 0.2) -> float:
    """Return the challenge's pAUC, computed from scikit-learn's standardised partial area."""
    s = reference.roc_auc_score(1 - target, -prediction, max_fpr=m)
    return 0.5 * m * m + (m - 0.5 * m * m) / 0.5 * (s - 0.5)


def expected_operating_points(target, prediction):
    """Return sensitivity at two specificities and the reverse, from scikit-learn's curve with exact counts."""
    negatives, positives = (1 - target).sum(), target.sum()
    fpr, tpr, _ = reference.roc_curve(target, prediction, drop_intermediate=False)
    specificity = (negatives - np.rint(fpr * negatives)) / negatives
    return [
        *(tpr[specificity >= wanted].max() for wanted in (0.9, 0.95)),
        *(specificity[np.rint(tpr * positives) / positives >= wanted].max() for wanted in (0.9, 0.95)),
    ]


def expected_ece(target, prediction, bins=15):
    """Return the calibration error from scikit-learn's curve, weighted by the rows of its bins."""
    observed, predicted = calibration_curve(target, prediction, n_bins=bins)
    rows = np.bincount(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], prediction))
    return (rows[rows > 0] * np.abs(observed - predicted)).sum() / len(target)


def expected_summary(target, prediction, threshold):
    called = (prediction >= threshold).astype(int)
    report = reference.classification_report(
        target, called, labels=[0, 1], target_names=metrics.CLASSES, output_dict=True, zero_division=0
    )
    tn, fp, fn, tp = reference.confusion_matrix(target, called, labels=[0, 1]).ravel()
    expected = {
        "n": len(target),
        "positives": target.sum(),
        "positive_to_negative": target.sum() / (1 - target).sum(),
        "pauc": challenge_score(target, prediction),
        "roc_auc": reference.roc_auc_score(target, prediction),
        "pr_auc": reference.average_precision_score(target, prediction),
        **dict(zip(OPERATING, expected_operating_points(target, prediction), strict=True)),
        "log_loss": reference.log_loss(target, prediction),
        "brier": reference.brier_score_loss(target, prediction),
        "ece": expected_ece(target, prediction),
        "threshold": threshold,
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
        "predicted_positives": called.sum(),
        "hamming": reference.hamming_loss(target, called),
        "accuracy": reference.accuracy_score(target, called),
        "specificity": reference.recall_score(target, called, pos_label=0, zero_division=0),
    }
    for name, theirs in [
        ("macro", "macro avg"),
        ("weighted", "weighted avg"),
        *zip(*[metrics.CLASSES] * 2, strict=True),
    ]:
        for figure in ("precision", "recall", "f1-score", "support"):
            expected[f"{name}_{figure.removesuffix('-score')}"] = report[theirs][figure]
    return {key: expected[key] for key in KEYS}


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.0, 2.0])
@pytest.mark.parametrize("kind", ["random", "tied", "imbalanced", "imbalanced and tied", "tiny"])
def test_summary_equals_sklearn(kind, threshold):
    target, prediction = draw(kind)
    summary = registry.summary(target, prediction, threshold)
    assert list(summary) == KEYS
    assert {type(value) for value in summary.values()} == {int, float}  # plain Python types, for JSON
    assert summary == pytest.approx(expected_summary(target, prediction, threshold), **EXACT)


@repeatable
@given(two_classes)
def test_summary_equals_sklearn_on_any_rows(rows):
    target, prediction = columns(rows)
    assert registry.summary(target, prediction) == pytest.approx(expected_summary(target, prediction, 0.5), **EXACT)


@repeatable
@given(two_classes, st.sampled_from([0.01, 0.25, 0.5, 0.9]))
def test_partial_area_equals_sklearn_at_any_cut(rows, min_tpr):
    target, prediction = columns(rows)
    expected = challenge_score(target, prediction, 1 - min_tpr)
    assert metrics.pauc_above_tpr(target, prediction, min_tpr) == pytest.approx(expected, **EXACT)


@repeatable
@given(two_classes)
def test_partial_area_without_a_cut_is_the_whole_area(rows):
    assert metrics.pauc_above_tpr(*columns(rows), min_tpr=0) == pytest.approx(metrics.roc_auc(*columns(rows)), **EXACT)


@repeatable
@given(two_classes)
def test_curves_equal_sklearn(rows):
    target, prediction = columns(rows)
    theirs = (
        reference.roc_curve(target, prediction, drop_intermediate=False),
        reference.precision_recall_curve(target, prediction),
    )
    for ours, expected in zip((curve(target, prediction) for curve in CURVES), theirs, strict=True):
        for values, expected_values in zip(ours, expected, strict=True):
            np.testing.assert_allclose(values, expected_values, rtol=0, atol=1e-12)


@repeatable
@given(row_lists)
def test_each_point_of_the_roc_curve_is_the_confusion_at_its_threshold(rows):
    target, prediction = columns(rows)
    for fpr, tpr, threshold in list(zip(*metrics.roc_curve(target, prediction), strict=True))[1:]:
        tn, fp, fn, tp = metrics.confusion(target, prediction, threshold)
        assert fpr == (fp / (fp + tn) if fp + tn else pytest.approx(math.nan, nan_ok=True))
        assert tpr == (tp / (tp + fn) if tp + fn else pytest.approx(math.nan, nan_ok=True))


@repeatable
@given(row_lists, st.randoms(use_true_random=False))
def test_order_of_rows_changes_no_bit_of_the_summary(rows, random):
    shuffled = random.sample(rows, len(rows))
    before, after = (np.array(list(registry.summary(*columns(r)).values())) for r in (rows, shuffled))
    np.testing.assert_array_equal(before, after)


def test_order_of_many_rows_changes_no_bit_of_the_summary():
    target, prediction = draw("imbalanced and tied")
    order = np.random.default_rng(0).permutation(len(target))
    assert registry.summary(target[order], prediction[order]) == registry.summary(target, prediction)


@pytest.mark.parametrize("metric", [*RANKED, *PROBABILISTIC])
def test_order_of_many_rows_changes_no_bit_of_a_metric(metric):
    target, prediction = draw("imbalanced")
    order = np.random.default_rng(1).permutation(len(target))
    assert metric(target[order], prediction[order]) == metric(target, prediction)


def test_rows_of_weight_one_are_the_rows_whatever_their_clusters():
    target, prediction = draw("imbalanced and tied")
    cluster = np.arange(len(target)) % 7
    rows = Rows(target, prediction, cluster, 7, {"": np.full(len(target), 0.3)})
    plain, found = registry.summary(target, prediction, 0.3), rows.unweighted()
    assert metrics.roc_auc.weighted(found) == plain["roc_auc"]  # exact: whole numbers
    for key, value in (registry.scores(found) | registry.rates(*found.confusions[""][:4])).items():
        assert value == pytest.approx(plain[key], **EXACT)


def test_a_cluster_of_weight_zero_is_not_there():
    target, prediction = draw("random")
    cluster = np.arange(len(target)) % 3
    statistics = Rows(target, prediction, cluster, 3, {}).weighted(np.array([[1.0, 0, 2], [0, 0, 0], [0, 1, 0]]))
    left = np.concatenate([np.flatnonzero(cluster == 0), np.repeat(np.flatnonzero(cluster == 2), 2)])
    for metric in (*AREAS, *PROBABILISTIC):
        with np.errstate(invalid="ignore"):  # no rows
            found = metric.weighted(statistics)
        expected = [metric(target[rows], prediction[rows]) for rows in (left, cluster == 1)]
        assert found[[0, 2]] == pytest.approx(expected, **EXACT)
        assert np.isnan(found[1])


@repeatable
@given(two_classes)
def test_only_ranks_matter_to_the_areas(rows):
    target, prediction = columns(rows)
    ranks = np.unique(prediction, return_inverse=True)[1]
    for area in RANKED:
        assert area(target, prediction) == area(target, ranks) == area(target, -np.exp(-0.1 * ranks))


@pytest.mark.parametrize(("n", "positives"), [(2, 1), (7, 3), (1000, 1), (1000, 999), (20_000, 393)])
def test_perfect_and_reversed(n, positives):
    target = np.arange(n) >= n - positives
    perfect, inverted = registry.summary(target, target), registry.summary(target, ~target)
    for key in (
        "roc_auc",
        "pr_auc",
        "accuracy",
        "specificity",
        "macro_f1",
        "weighted_f1",
        "malignant_recall",
        *OPERATING,
    ):
        assert perfect[key] == pytest.approx(1, **EXACT)
    assert perfect["pauc"] == pytest.approx(0.2, **EXACT)
    assert perfect["log_loss"] == pytest.approx(0, **EXACT)
    assert perfect["brier"] == perfect["ece"] == perfect["hamming"] == 0
    for key in ("roc_auc", "pauc", "accuracy", "specificity", "macro_f1", "weighted_f1", "malignant_recall"):
        assert inverted[key] == pytest.approx(0, **EXACT)
    assert inverted["pr_auc"] == pytest.approx(positives / n, **EXACT)  # all rows of a class tie
    assert inverted["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps))
    assert inverted["brier"] == inverted["ece"] == inverted["hamming"] == 1
    assert all(inverted[key] == 0 for key in OPERATING)


def test_random_and_constant():
    rng = np.random.default_rng(3)
    target = rng.random(200_000) < 0.1
    noise = rng.random(200_000)
    assert metrics.roc_auc(target, noise) == pytest.approx(0.5, abs=0.01)
    assert metrics.pr_auc(target, noise) == pytest.approx(target.mean(), abs=0.01)
    assert metrics.pauc_above_tpr(target, noise) == pytest.approx(0.02, abs=0.001)
    constant = np.full(len(target), 0.5)
    assert metrics.roc_auc(target, constant) == 0.5
    assert metrics.pr_auc(target, constant) == pytest.approx(target.mean(), **EXACT)
    assert metrics.pauc_above_tpr(target, constant) == pytest.approx(0.02, **EXACT)
    assert metrics.log_loss(target, constant) == pytest.approx(np.log(2), **EXACT)
    assert metrics.brier_score(target, constant) == 0.25
    assert metrics.expected_calibration_error(target, constant) == pytest.approx(0.5 - target.mean(), **EXACT)
    assert metrics.sensitivity_at_specificity(target, constant, 0.9) == 0  # calls all rows malignant, or none
    assert metrics.specificity_at_sensitivity(target, constant, 0.9) == 0
    assert metrics.sensitivity_at_specificity(target, noise, 0.9) == pytest.approx(0.1, abs=0.01)
    assert metrics.expected_calibration_error(target, np.full(len(target), target.mean())) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_is_nan_and_never_an_error(only):
    target, prediction = np.full(4, only), np.array([0.1, 0.4, 0.4, 0.9])
    summary = registry.summary(target, prediction)
    undefined = {"roc_auc", "pr_auc", "pauc", *OPERATING} | ({"positive_to_negative"} if only else set())
    assert {key for key, value in summary.items() if math.isnan(value)} == undefined
    assert summary["log_loss"] == pytest.approx(reference.log_loss(target, prediction, labels=[0, 1]), **EXACT)
    fpr, tpr, _ = metrics.roc_curve(target, prediction)
    assert np.isnan(fpr).all() == (only == 1)
    assert np.isnan(tpr).all() == (only == 0)
    precision, recall, _ = metrics.precision_recall_curve(target, prediction)
    assert np.isfinite(precision).all()
    assert np.isnan(recall).all() == (only == 0)


def test_class_never_predicted_has_precision_zero():
    figures = registry.classification([0, 0, 1], [0.1, 0.2, 0.3])
    assert figures["malignant_precision"] == figures["malignant_recall"] == figures["malignant_f1"] == 0
    assert figures["benign_precision"] == pytest.approx(2 / 3)
    assert figures["macro_precision"] == pytest.approx(1 / 3)
    absent = registry.classification([0, 0], [0.1, 0.2])  # the macro mean includes a class without rows
    assert absent["malignant_f1"] == 0
    assert absent["macro_f1"] == 0.5
    assert absent["weighted_f1"] == 1


def test_prediction_equal_to_the_threshold_is_malignant():
    assert metrics.confusion([0, 1, 0, 1], [0.5, 0.5, 0.4999, 0.4999]) == (1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["random", "tied", "imbalanced"])
def test_float32_predictions_are_computed_in_float64(kind):
    target, prediction = draw(kind)
    single = prediction.astype(np.float32)
    assert registry.summary(target, single) == registry.summary(target, single.astype(np.float64))
    assert registry.summary(target, single) == pytest.approx(
        expected_summary(target, single.astype(np.float64), 0.5), **EXACT
    )


def test_float32_saturated_sigmoid_is_finite():
    loss = metrics.log_loss([0, 1], np.array([1, 1], np.float32))
    assert loss == pytest.approx(-np.log(np.finfo(np.float64).eps) / 2)


def test_lists_booleans_and_floats_are_read_alike():
    target, prediction = draw("tiny")
    expected = registry.summary(target, prediction)
    for same in (target.astype(bool), target.astype(float), target.astype(np.int8), target.tolist()):
        assert registry.summary(same, prediction.tolist()) == expected


@pytest.mark.parametrize("figure", [*RANKED, *CURVES, *PROBABILISTIC, metrics.confusion, registry.summary])
@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([], [], "no rows"),
        ([0, 1], [0.5], r"\(2,\) and prediction \(1,\)"),
        ([[0], [1]], [[0.5], [0.5]], "two columns"),
        (1, 0.5, "two columns"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "target in row 2 .* 2.0, neither 0 nor 1"),
        ([0, math.nan], [0.1, 0.2], "target in row 1 .* nan"),
        ([0, 1], [math.nan, 0.2], "prediction in row 0 .* not finite"),
        ([0, 1], [0.1, math.inf], "prediction in row 1 .* not finite"),
    ],
)
def test_wrong_columns_are_refused(figure, target, prediction, message):
    with pytest.raises(InputError, match=message):
        figure(target, prediction)


@pytest.mark.parametrize("figure", [*PROBABILISTIC, registry.summary])
def test_logits_are_refused_where_a_probability_is_needed(figure):
    with pytest.raises(InputError, match=r"prediction in row 1 \(from 0; 2 such rows\) is -3.0, outside \[0, 1\]"):
        figure([0, 1, 1], [0.5, -3.0, 4.0])


def test_the_wanted_sensitivity_and_specificity_are_reached_at_an_attained_point_and_not_between_two():
    target, prediction = [0, 0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.6, 0.8]
    assert metrics.sensitivity_at_specificity(target, prediction, 0.75) == 1
    assert metrics.sensitivity_at_specificity(target, prediction, 0.76) == 0.5
    assert metrics.specificity_at_sensitivity(target, prediction, 0) == 1
    assert metrics.specificity_at_sensitivity([0, 1], [0.9, 0.1], 0) == 1  # no row called malignant
    assert metrics.specificity_at_sensitivity(target, prediction, 0.5) == 1
    assert metrics.specificity_at_sensitivity(target, prediction, 0.51) == 0.75


def test_bins_of_calibration_are_closed_above():
    assert calibration_bin([0, 0.1, 0.2, 0.20001, 1], bins=5).tolist() == [0, 0, 0, 1, 4]


def test_a_threshold_for_each_row():
    target, prediction = draw("random")
    threshold = np.where(np.arange(len(target)) % 2, 0.2, 0.6)
    parts = [metrics.confusion(target[odd::2], prediction[odd::2], at) for odd, at in ((1, 0.2), (0, 0.6))]
    assert metrics.confusion(target, prediction, threshold) == tuple(map(sum, zip(*parts, strict=True)))


def test_wrong_options_are_refused():
    for wanted in (1.5, -0.1, math.nan):
        with pytest.raises(InputError, match="the wanted specificity is"):
            metrics.sensitivity_at_specificity([0, 1], [0.1, 0.2], wanted)
        with pytest.raises(InputError, match="the wanted sensitivity is"):
            metrics.specificity_at_sensitivity([0, 1], [0.1, 0.2], wanted)
    for min_tpr in (1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="min_tpr"):
            metrics.pauc_above_tpr([0, 1], [0.1, 0.2], min_tpr)
    with pytest.raises(InputError, match="threshold"):
        metrics.confusion([0, 1], [0.1, 0.2], math.nan)


def real_predictions(name: str):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real predictions {name} are not beside the repository")
    with path.open(newline="") as file:
        rows = [(int(row["target"]), float(row["prediction"])) for row in csv.DictReader(file)]
    return columns(rows)


def test_challenge_score_of_real_predictions_is_the_printed_one():
    target, prediction = real_predictions("predictions_20000.csv")
    assert (len(target), target.sum()) == (20_000, 67)
    assert metrics.pauc_above_tpr(target, prediction) == pytest.approx(0.1917119364797444, **EXACT)
    assert registry.summary(target, prediction) == pytest.approx(expected_summary(target, prediction, 0.5), **EXACT)


def test_figures_of_real_predictions_are_the_printed_ones():
    summary = registry.summary(*real_predictions("predictions_28073.csv"), threshold=0.011083313263952732)
    counts = {"n": 28_073, "positives": 29, "tn": 25_587, "fp": 2_457, "fn": 14, "tp": 15}
    assert {key: summary[key] for key in counts} == counts
    printed = {
        "roc_auc": 0.8351310010377782,
        "accuracy": 0.9119794820646172,
        "malignant_f1": 0.011995201919232307,
        "malignant_precision": 0.006067961165048544,
        "malignant_recall": 0.5172413793103449,
        "specificity": 0.9123876765083441,
    }
    assert {key: summary[key] for key in printed} == pytest.approx(printed, **EXACT)
