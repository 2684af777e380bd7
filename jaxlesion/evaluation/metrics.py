"""Every figure the project reports, from two columns: `target` [n] and `prediction` [n].

`target` is 1 for malignant and 0 for benign, `prediction` the uncorrected sigmoid. Predictions may be
float32; every figure is computed in float64. No figure depends on the order of the rows.

- Threshold: a row is called malignant where `prediction >= threshold`, so that each point of
  `roc_curve` is the confusion at its own threshold. The comparison is made in float64.
- Division by zero in a class: the precision of a class never predicted, the recall of a class without
  rows and the F1 of a class with neither are 0 (scikit-learn's `zero_division=0`). Both classes always
  count in the macro mean.
- One class only: `roc_auc`, `pr_auc`, `pauc_above_tpr` and the sensitivity and specificity at a wanted value of
  the other are nan. They do not raise, as a small validation fold may hold no malignant lesion; they are
  not 0, as 0 would be a score.

Every function raises `InputError` where `target` and `prediction` are not two columns of the same
length n > 0, where a target is neither 0 nor 1, and where a prediction is not finite.
"""

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError

CLASSES = ("benign", "malignant")
MIN_TPR = 0.8  # of the challenge's partial area
WANTED = (0.9, 0.95)  # specificities that a sensitivity is given at, and the reverse
ECE_BINS = 15


def operating_points(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Threshold, false positives and true positives of every distinct call, each [distinct predictions + 1].

    Thresholds fall from inf, which calls nothing malignant, to the lowest prediction, which calls every row so.
    """
    target, prediction = _check(target, prediction)
    order = np.argsort(prediction, kind="stable")[::-1]
    target, prediction = target[order], prediction[order]
    last = np.append(np.flatnonzero(prediction[1:] != prediction[:-1]), len(prediction) - 1)
    tp = np.cumsum(target)[last]
    return np.append(np.inf, prediction[last]), np.append(0, last + 1 - tp), np.append(0, tp)


def roc_curve(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate and threshold, each [distinct predictions + 1].

    Thresholds fall from inf, which calls nothing malignant. The rate of a class without rows is nan.
    """
    threshold, fp, tp = operating_points(target, prediction)
    return _share(fp), _share(tp), threshold


def precision_recall_curve(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall, each [distinct predictions + 1], and threshold [distinct predictions], rising.

    Ends, as in scikit-learn, with precision 1 and recall 0, which has no threshold. Recall is nan
    where there is no malignant row.
    """
    threshold, fp, tp = operating_points(target, prediction)
    precision = np.append(1.0, tp[1:] / (tp + fp)[1:])
    return precision[::-1], _share(tp)[::-1], threshold[:0:-1]


def roc_auc(target: ArrayLike, prediction: ArrayLike) -> float:
    """The chance that a malignant row is ranked above a benign one, a tie counting half; nan for one class."""
    _, fp, tp = operating_points(target, prediction)
    if not fp[-1] or not tp[-1]:
        return np.nan
    twice_the_pairs = np.sum(np.diff(fp) * (tp[1:] + tp[:-1]))  # integers: exact
    return float(twice_the_pairs / (2 * fp[-1] * tp[-1]))


def pr_auc(target: ArrayLike, prediction: ArrayLike) -> float:
    """Average precision, sum of (R_k - R_k-1) * P_k without interpolation, as in scikit-learn; nan for one class."""
    _, fp, tp = operating_points(target, prediction)
    if not fp[-1] or not tp[-1]:
        return np.nan
    return float(np.sum(np.diff(tp) * tp[1:] / (tp + fp)[1:]) / tp[-1])


def pauc_above_tpr(target: ArrayLike, prediction: ArrayLike, min_tpr: float = MIN_TPR) -> float:
    """Area between the ROC curve and the line TPR = `min_tpr`, the ISIC 2024 challenge's score; nan for one class.

    It is the area left of FPR = 1 - `min_tpr` once both labels and predictions are flipped, with a
    straight line to the cut, not standardised: perfect is 1 - `min_tpr`, random half its square, reversed 0.

    Raises:
        InputError: `min_tpr` is outside [0, 1).
    """
    if not 0 <= min_tpr < 1:
        raise InputError(f"min_tpr is {min_tpr}, outside [0, 1); the challenge uses 0.8")
    _, fp, tp = operating_points(target, prediction)
    if not fp[-1] or not tp[-1]:
        return np.nan
    # The flipped curve: false negatives are its false positives, true negatives its true positives.
    x, y = (tp[-1] - tp[::-1]) / tp[-1], (fp[-1] - fp[::-1]) / fp[-1]
    cut = 1 - min_tpr
    inside = np.searchsorted(x, cut, side="right")
    return float(np.trapezoid(np.append(y[:inside], np.interp(cut, x, y)), np.append(x[:inside], cut)))


def sensitivity_at_specificity(target: ArrayLike, prediction: ArrayLike, specificity: float) -> float:
    """The highest sensitivity among operating points of at least this specificity; nan for one class.

    Only attained points count, nothing is interpolated between two of them; calling nothing malignant is one.

    Raises:
        InputError: `specificity` is outside [0, 1].
    """
    return _best_other(target, prediction, specificity, "specificity")


def specificity_at_sensitivity(target: ArrayLike, prediction: ArrayLike, sensitivity: float) -> float:
    """The highest specificity among operating points of at least this sensitivity; nan for one class.

    Only attained points count, nothing is interpolated between two of them.

    Raises:
        InputError: `sensitivity` is outside [0, 1].
    """
    return _best_other(target, prediction, sensitivity, "sensitivity")


def log_loss(target: ArrayLike, prediction: ArrayLike) -> float:
    """Mean negative log likelihood in nats; predictions are kept 2.2e-16 away from 0 and 1, as in scikit-learn.

    Raises:
        InputError: a prediction is outside [0, 1].
    """
    target, prediction = check_probability(target, prediction)
    epsilon = np.finfo(np.float64).eps
    likelihood = np.clip(np.where(target, prediction, 1 - prediction), epsilon, 1 - epsilon)
    return float(-np.mean(np.log(likelihood)))


def brier_score(target: ArrayLike, prediction: ArrayLike) -> float:
    """Mean squared difference of prediction and target.

    Raises:
        InputError: a prediction is outside [0, 1].
    """
    target, prediction = check_probability(target, prediction)
    return float(np.mean((prediction - target) ** 2))


def calibration_bin(prediction: ArrayLike, bins: int = ECE_BINS) -> np.ndarray:
    """The bin [n] of each prediction among `bins` of equal width over [0, 1]: from 0, closed above, 0 in the first."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], np.asarray(prediction, np.float64), side="left")


def expected_calibration_error(target: ArrayLike, prediction: ArrayLike, bins: int = ECE_BINS) -> float:
    """Mean of |share of malignant rows - mean prediction| over bins of equal width, weighted by their rows.

    Naeini et al., AAAI 2015, for the probability of one class, in the 15 bins ((m - 1) / 15, m / 15] of Guo et al.,
    ICML 2017. Where nearly all predictions lie in the lowest bin, so does nearly all of its weight.

    Raises:
        InputError: a prediction is outside [0, 1].
    """
    target, prediction = check_probability(target, prediction)
    gap = np.bincount(calibration_bin(prediction, bins), prediction - target)  # rows x (mean prediction - share)
    return float(np.abs(gap).sum() / len(target))


def confusion(target: ArrayLike, prediction: ArrayLike, threshold: ArrayLike = 0.5) -> tuple[int, int, int, int]:
    """Numbers of true negatives, false positives, false negatives and true positives, malignant being positive.

    `threshold` is one number or one for each row [n].

    Raises:
        InputError: `threshold` is not finite.
    """
    if not np.all(np.isfinite(threshold)):
        raise InputError(f"threshold is {threshold}; give a finite number")
    target, prediction = _check(target, prediction)
    tn, fp, fn, tp = np.bincount(2 * target + (prediction >= threshold), minlength=4)
    return int(tn), int(fp), int(fn), int(tp)


def classification(target: ArrayLike, prediction: ArrayLike, threshold: float = 0.5) -> dict[str, int | float]:
    """The figures that depend on a threshold; see `summary` for the keys.

    Raises:
        InputError: `threshold` is not finite.
    """
    tn, fp, fn, tp = confusion(target, prediction, threshold)
    counts = {"tn": tn, "fp": fp, "fn": fn, "tp": tp, "predicted_positives": tp + fp}
    supports = {f"{name}_support": n for name, n in zip(CLASSES, (tn + fp, fn + tp), strict=True)}
    shares = {name: float(share) for name, share in rates(tn, fp, fn, tp).items()}
    return {"threshold": float(threshold), **counts, **supports, **shares}


def rates(tn: ArrayLike, fp: ArrayLike, fn: ArrayLike, tp: ArrayLike) -> dict[str, np.ndarray]:
    """The shares that follow from a confusion, of numbers or of arrays of one shape; see `summary` for the keys."""
    tn, fp, fn, tp = (np.asarray(count, np.float64) for count in (tn, fp, fn, tp))
    n = tn + fp + fn + tp
    figures = {"hamming": _ratio(fp + fn, n), "accuracy": _ratio(tn + tp, n), "specificity": _ratio(tn, tn + fp)}
    for name, hit, wrong, missed in zip(CLASSES, (tn, tp), (fn, fp), (fp, fn), strict=True):
        figures[f"{name}_precision"] = _ratio(hit, hit + wrong)
        figures[f"{name}_recall"] = _ratio(hit, hit + missed)
        figures[f"{name}_f1"] = _ratio(2 * hit, 2 * hit + wrong + missed)
    for figure in ("precision", "recall", "f1"):
        benign, malignant = (figures[f"{name}_{figure}"] for name in CLASSES)
        figures[f"macro_{figure}"] = (benign + malignant) / 2
        figures[f"weighted_{figure}"] = _ratio(benign * (tn + fp) + malignant * (fn + tp), n)
    return figures


def summary(target: ArrayLike, prediction: ArrayLike, threshold: float = 0.5) -> dict[str, int | float]:
    """All figures of one set of predictions, counts as int and the rest as float, under these keys in this order.

    - `n`, `positives`; `positive_to_negative`: malignant rows per benign row, nan without a benign row
    - `pauc` (above 80 % TPR), `roc_auc`, `pr_auc`: nan for one class
    - `{sensitivity_at_90,sensitivity_at_95}_specificity` and `{specificity_at_90,specificity_at_95}_sensitivity`,
      the wanted value in percent: nan for one class
    - `log_loss`, `brier`, `ece` (in 15 bins of equal width)
    - `threshold`, and at that threshold: `tn`, `fp`, `fn`, `tp`; `predicted_positives`, which is fp + tp;
      `{benign,malignant}_support`
    - `hamming` (the share of wrong rows), `accuracy`, `specificity`; `{benign,malignant}_{precision,recall,f1}`
    - `{macro,weighted}_{precision,recall,f1}`: the mean of the two classes, plain and by support

    Raises:
        InputError: a prediction is outside [0, 1], or `threshold` is not finite.
    """
    target, prediction = check_probability(target, prediction)
    # One true sort: those inside the figures find sorted rows, which costs them linear time. Ties are
    # ordered by target, so that sums are the same to the last bit whatever the order of the rows.
    order = np.lexsort((target, prediction))
    target, prediction = target[order], prediction[order]
    n, positives = len(target), int(target.sum())
    return {
        "n": n,
        "positives": positives,
        "positive_to_negative": positives / (n - positives) if n > positives else np.nan,
        "pauc": pauc_above_tpr(target, prediction),
        "roc_auc": roc_auc(target, prediction),
        "pr_auc": pr_auc(target, prediction),
        **{sensitivity_key(s): sensitivity_at_specificity(target, prediction, s) for s in WANTED},
        **{specificity_key(s): specificity_at_sensitivity(target, prediction, s) for s in WANTED},
        "log_loss": log_loss(target, prediction),
        "brier": brier_score(target, prediction),
        "ece": expected_calibration_error(target, prediction),
        **classification(target, prediction, threshold),
    }


def sensitivity_key(specificity: float) -> str:
    """The key of a sensitivity at a wanted specificity."""
    return f"sensitivity_at_{100 * specificity:.0f}_specificity"


def specificity_key(sensitivity: float) -> str:
    """The key of a specificity at a wanted sensitivity."""
    return f"specificity_at_{100 * sensitivity:.0f}_sensitivity"


def _check(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both columns as [n], target int64 and prediction float64, or `InputError`."""
    target, prediction = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if target.ndim != 1 or target.shape != prediction.shape:
        raise InputError(
            f"target has shape {target.shape} and prediction {prediction.shape}; give two columns of equal length"
        )
    if not target.size:
        raise InputError("there are no rows to compute a figure from; give at least one")
    _reject((target != 0) & (target != 1), target, "target", "neither 0 nor 1; keep rows with a known target only")
    _reject(~np.isfinite(prediction), prediction, "prediction", "not finite; look for a diverged model or a gap")
    return target.astype(np.int64), prediction


def check_probability(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both columns as [n], target int64 and prediction float64 in [0, 1], or `InputError`."""
    target, prediction = _check(target, prediction)
    _reject((prediction < 0) | (prediction > 1), prediction, "prediction", "outside [0, 1]; give sigmoids, not logits")
    return target, prediction


def _reject(bad: np.ndarray, column: np.ndarray, name: str, complaint: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{name} in row {row} (from 0; {int(bad.sum())} such rows) is {column[row]}, {complaint}")


def _share(cumulated: np.ndarray) -> np.ndarray:
    return cumulated / cumulated[-1] if cumulated[-1] else np.full(cumulated.shape, np.nan)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0)


def _best_other(target: ArrayLike, prediction: ArrayLike, wanted: float, name: str) -> float:
    """The highest of the other of sensitivity and specificity, where the one that is named is at least `wanted`."""
    if not 0 <= wanted <= 1:
        raise InputError(f"the wanted {name} is {wanted}, outside [0, 1]")
    _, fp, tp = operating_points(target, prediction)
    if not fp[-1] or not tp[-1]:
        return np.nan
    both = {"specificity": (fp[-1] - fp) / fp[-1], "sensitivity": tp / tp[-1]}
    held = both.pop(name) >= wanted
    return float(both.popitem()[1][held].max())
