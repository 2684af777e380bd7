"""Every metric's formula, once: of `Statistics` for many weightings, and of two columns for the rows as they are.

`target` is 1 for malignant and 0 for benign, `prediction` the uncorrected sigmoid. Predictions may be
float32; every metric is computed in float64. No metric depends on the order of the rows.

- Threshold: a row is called malignant where `prediction >= threshold`, so that each point of
  `roc_curve` is the confusion at its own threshold. The comparison is made in float64.
- Division by zero in a class: the precision of a class never predicted, the recall of a class without
  rows and the F1 of a class with neither are 0 (scikit-learn's `zero_division=0`). Both classes always
  count in the macro mean. Resamples have nan there, since 0 would be a value.
- One class only: ranking metrics are nan. They do not raise, as a small validation fold may hold no malignant
  lesion; they are not 0, as 0 would be a score.

A function under `ranking` or `probabilistic` is written as a formula [r] of the `Statistics` of r weightings. It is
called with two columns, as `roc_auc(target, prediction)`; `roc_auc.weighted(statistics)` is the formula. Functions of
two columns raise `InputError` for columns that `check_columns` refuses, probabilistic ones also outside [0, 1].
Functions of a `Confusion` return an array of its shape. `registry` lists which of them are reported, and where.
"""

import functools
import inspect
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.columns import check_columns, check_probability, check_threshold
from jaxlesion.evaluation.statistics import ECE_BINS, Confusion, Rows, Statistics

CLASSES = ("benign", "malignant")
MIN_TPR = 0.8  # of the challenge's partial area

Formula = Callable[..., np.ndarray]


def _of_columns(check: Callable[[ArrayLike, ArrayLike], tuple[np.ndarray, np.ndarray]]) -> Callable[[Formula], Formula]:
    """Return a decorator: a formula of statistics becomes a function of two columns, with the formula as `weighted`."""

    def decorate(formula: Formula) -> Formula:
        @functools.wraps(formula)
        def metric(target: ArrayLike, prediction: ArrayLike, *args: object, **options: object) -> float:
            statistics = Rows.single(*check(target, prediction)).unweighted()
            return float(formula(statistics, *args, **options)[0])

        columns, own = (list(inspect.signature(of).parameters.values()) for of in (check, formula))
        metric.__signature__ = inspect.Signature(columns + own[1:], return_annotation=float)
        metric.weighted = formula
        return metric

    return decorate


ranking, probabilistic = _of_columns(check_columns), _of_columns(check_probability)


@ranking
def roc_auc(s: Statistics) -> np.ndarray:
    """Return the chance that a malignant row is ranked above a benign one, a tie counting half; nan for one class."""
    pairs = ((s.tp - s.tp_above) * (2 * s.negatives[:, None] - s.fp - s.fp_above)).sum(1)  # doubled: whole and exact
    return _unless_one_class(s, _divide(pairs, 2 * s.positives * s.negatives))


@ranking
def pr_auc(s: Statistics) -> np.ndarray:
    """Return average precision, sum of (R_k - R_k-1) * P_k, as in scikit-learn; nan for one class.

    Nothing is interpolated.
    """
    hits = s.tp - s.tp_above
    return _unless_one_class(s, _divide((hits * _divide(s.tp, s.tp + s.fp)).sum(1), s.positives))


@ranking
def pauc_above_tpr(s: Statistics, min_tpr: float = MIN_TPR) -> np.ndarray:
    """Return the area between the ROC curve and TPR = `min_tpr`, the ISIC 2024 challenge's score; nan for one class.

    It is the area left of FPR = 1 - `min_tpr` once both labels and predictions are flipped, with a
    straight line to the cut, not standardised: perfect is 1 - `min_tpr`, random half its square, reversed 0.

    Raises:
        InputError: `min_tpr` is outside [0, 1).
    """
    if not 0 <= min_tpr < 1:
        raise InputError(f"min_tpr is {min_tpr}, outside [0, 1); the challenge uses 0.8")
    positives, negatives = s.positives[:, None], s.negatives[:, None]
    # The flipped curve: false negatives are its false positives, true negatives its true positives. At each level a
    # straight piece leads from (x, y) to (x + dx, y + dy), the same above the level; between levels x stays.
    x, dx = _divide(positives - s.tp, positives), _divide(s.tp - s.tp_above, positives)
    y, dy = _divide(negatives - s.fp, negatives), _divide(s.fp - s.fp_above, negatives)
    inside = np.clip(1 - min_tpr - x, 0, dx)
    return _unless_one_class(s, (inside * (y + dy * _divide(inside, dx) / 2)).sum(1))


@ranking
def sensitivity_at_specificity(s: Statistics, specificity: float) -> np.ndarray:
    """Return the highest sensitivity among operating points of at least this specificity; nan for one class.

    Only attained points count, nothing is interpolated between two of them; calling nothing malignant is one.

    Raises:
        InputError: `specificity` is outside [0, 1].
    """
    _check_share(specificity, "specificity")
    return _unless_one_class(s, np.where(s.specificity >= specificity, s.sensitivity, 0).max(1, initial=0))


@ranking
def specificity_at_sensitivity(s: Statistics, sensitivity: float) -> np.ndarray:
    """Return the highest specificity among operating points of at least this sensitivity; nan for one class.

    Only attained points count, nothing is interpolated between two of them; calling nothing malignant is one.

    Raises:
        InputError: `sensitivity` is outside [0, 1].
    """
    _check_share(sensitivity, "sensitivity")
    nothing_called = 1.0 if sensitivity == 0 else 0.0
    held = np.where(s.sensitivity >= sensitivity, s.specificity, 0)
    return _unless_one_class(s, held.max(1, initial=nothing_called))


@probabilistic
def log_loss(s: Statistics) -> np.ndarray:
    """Return the mean negative log likelihood in nats; predictions are kept 2.2e-16 off 0 and 1, as in scikit-learn."""
    return s.negative_log_likelihood / s.n


@probabilistic
def brier_score(s: Statistics) -> np.ndarray:
    """Return the mean squared difference of prediction and target."""
    return s.squared_error / s.n


@probabilistic
def expected_calibration_error(s: Statistics, bins: int = ECE_BINS) -> np.ndarray:
    """Return the mean of |share of malignant rows - mean prediction| over bins of equal width, weighted by their rows.

    Naeini et al., AAAI 2015, for the probability of one class, in the 15 bins ((m - 1) / 15, m / 15] of Guo et al.,
    ICML 2017. Where nearly all predictions lie in the lowest bin, so does nearly all of its weight.
    """
    return np.abs(s.gaps(bins)).sum(1) / s.n  # a gap is rows * (mean prediction - share)


def prevalence_odds(s: Statistics) -> np.ndarray:
    """Return malignant rows per benign row [r]; nan without a benign row."""
    return np.where(s.negatives > 0, _divide(s.positives, s.negatives), np.nan)


def operating_points(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return threshold, false positives and true positives of every distinct call, each [distinct predictions + 1].

    Thresholds fall from inf, which calls nothing malignant, to the lowest prediction, which calls every row so.
    """
    target, prediction = check_columns(target, prediction)
    order = np.argsort(prediction, kind="stable")[::-1]
    target, prediction = target[order], prediction[order]
    last = np.append(np.flatnonzero(prediction[1:] != prediction[:-1]), len(prediction) - 1)
    tp = np.cumsum(target)[last]
    return np.append(np.inf, prediction[last]), np.append(0, last + 1 - tp), np.append(0, tp)


def roc_curve(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return false positive rate, true positive rate and threshold, each [distinct predictions + 1].

    Thresholds fall from inf, which calls nothing malignant. The rate of a class without rows is nan.
    """
    threshold, fp, tp = operating_points(target, prediction)
    return _share(fp), _share(tp), threshold


def precision_recall_curve(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision and recall, each [distinct predictions + 1], and threshold [distinct predictions], rising.

    Ends, as in scikit-learn, with precision 1 and recall 0, which has no threshold. Recall is nan
    where there is no malignant row.
    """
    threshold, fp, tp = operating_points(target, prediction)
    precision = np.append(1.0, tp[1:] / (tp + fp)[1:])
    return precision[::-1], _share(tp)[::-1], threshold[:0:-1]


def confusion(target: ArrayLike, prediction: ArrayLike, threshold: ArrayLike = 0.5) -> tuple[int, int, int, int]:
    """Return the numbers of true negatives, false positives, false negatives and true positives.

    Malignant is positive. `threshold` is one number or one for each row [n].

    Raises:
        InputError: `threshold` is not finite.
    """
    check_threshold(threshold)
    found = Rows.single(*check_columns(target, prediction), {"": threshold}).unweighted().confusions[""]
    tn, fp, fn, tp = (int(count[0]) for count in found[:4])
    return tn, fp, fn, tp


def accuracy(c: Confusion) -> np.ndarray:
    """Return the share of rows that are called what they are."""
    return _divide(c.tn + c.tp, _rows(c))


def hamming(c: Confusion) -> np.ndarray:
    """Return the share of rows that are called what they are not."""
    return _divide(c.fp + c.fn, _rows(c))


def specificity(c: Confusion) -> np.ndarray:
    """Return the share of benign rows that are called benign."""
    return recall(c, "benign")


def precision(c: Confusion, of: str) -> np.ndarray:
    """Return the share of right calls among calls of a class."""
    hit, wrong, _ = _calls_of(c, of)
    return _divide(hit, hit + wrong, c.undefined)


def recall(c: Confusion, of: str) -> np.ndarray:
    """Return the share of right calls among rows of a class."""
    hit, _, missed = _calls_of(c, of)
    return _divide(hit, hit + missed, c.undefined)


def f1(c: Confusion, of: str) -> np.ndarray:
    """Return the harmonic mean of a class's precision and recall."""
    hit, wrong, missed = _calls_of(c, of)
    return _divide(2 * hit, 2 * hit + wrong + missed, c.undefined)


def macro_mean(c: Confusion, rate: Callable[[Confusion, str], np.ndarray]) -> np.ndarray:
    """Return the mean of both classes' rates, such as `f1`."""
    benign, malignant = (rate(c, of) for of in CLASSES)
    return (benign + malignant) / 2


def weighted_mean(c: Confusion, rate: Callable[[Confusion, str], np.ndarray]) -> np.ndarray:
    """Return the mean of both classes' rates, weighted by their rows."""
    rows = {"benign": c.tn + c.fp, "malignant": c.fn + c.tp}
    sums = (np.where(np.equal(rows[of], 0), 0, rate(c, of) * rows[of]) for of in CLASSES)
    return _divide(sum(sums), _rows(c))


def _calls_of(c: Confusion, of: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return right calls of a class, wrong ones, and its rows that are called the other."""
    return (c.tn, c.fn, c.fp) if of == "benign" else (c.tp, c.fp, c.fn)


def _rows(c: Confusion) -> np.ndarray:
    return c.tn + c.fp + c.fn + c.tp


def _share(cumulated: np.ndarray) -> np.ndarray:
    return cumulated / cumulated[-1] if cumulated[-1] else np.full(cumulated.shape, np.nan)


def _divide(part: np.ndarray, whole: np.ndarray, undefined: float = 0.0) -> np.ndarray:
    """Return the quotient, or `undefined` where the whole is 0."""
    empty = np.full(np.broadcast(part, whole).shape, undefined)
    return np.divide(part, whole, out=empty, where=np.not_equal(whole, 0))


def _unless_one_class(s: Statistics, value: np.ndarray) -> np.ndarray:
    return np.where(s.one_class, np.nan, value)


def _check_share(wanted: float, name: str) -> None:
    if not 0 <= wanted <= 1:
        raise InputError(f"the wanted {name} is {wanted}, outside [0, 1]")
