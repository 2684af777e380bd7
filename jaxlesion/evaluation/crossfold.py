"""Ranking over several folds, whose models need not share a scale.

A model that is surer than the others lifts all rows of its fold, malignant and benign: ranking raw predictions of all
folds together then loses area although each fold ranks as before. Two figures do without a common scale:

- **Pooled ranks.** Each prediction is replaced by the share of its own fold's benign rows below it, ties half: its
  placement (Pepe and Cai 2004). One fold keeps its ROC curve exactly.
- **Mean of folds.** The equal-weight mean of the folds' areas, with the variance of its influence curve (LeDell,
  Petersen and van der Laan 2015, Electronic Journal of Statistics 9), summed by patient.

Probabilities that were calibrated on the other folds are no such scale. An intercept fitted there falls where the own
fold has more malignant rows, which ranks a useless model below chance.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.evaluation.columns import check_columns
from jaxlesion.evaluation.intervals import Spread


def rank_within_folds(target: ArrayLike, prediction: ArrayLike, fold: ArrayLike) -> np.ndarray | None:
    """Return the share [n] of the own fold's benign rows below each prediction, ties half; None without benign rows.

    Args:
        target: [n] 0 or 1.
        prediction: [n] out-of-fold predictions.
        fold: [n] the fold that held a row out.
    """
    target, prediction = check_columns(target, prediction)
    fold = np.asarray(fold)
    rank = np.empty(len(target))
    for k in np.unique(fold):
        inside = fold == k
        benign = np.sort(prediction[inside & (target == 0)])
        if not len(benign):
            return None
        rank[inside] = placements(benign, prediction[inside])
    return rank


def placements(others: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the share of sorted others below each prediction, ties half; equal shares are equal to the last bit."""
    twice = sum(np.searchsorted(others, prediction, side) for side in ("left", "right"))
    return twice / (2 * len(others))


def auc_influence(target: np.ndarray, prediction: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Return the sums of the influence curve of ROC AUC by patient [patients], divided by the rows.

    A malignant row counts (share of benign rows below - AUC) / malignant rows, a benign one
    (share of malignant rows above - AUC) / benign rows; ties half.
    """
    malignant, benign = (np.sort(prediction[target == of]) for of in (1, 0))
    below, above = placements(benign, prediction), 1 - placements(malignant, prediction)
    auc = below[target == 1].mean()
    curve = np.where(target == 1, (below - auc) / len(malignant), (above - auc) / len(benign))
    return np.bincount(np.unique(patient, return_inverse=True)[1], curve)


def mean_auc_spread(folds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Spread:
    """Return the standard error of the mean of the folds' ROC AUCs, nan where a fold lacks a class.

    The degrees of freedom are the patients with a malignant row less the folds, each of which has a mean of its own.

    Args:
        folds: target, prediction and patient of each, with no patient in two.
    """
    variance, malignant = 0.0, 0
    for target, prediction, patient in folds:
        if target.min() == target.max():
            return Spread(np.nan, 0)
        influence = auc_influence(target, prediction, patient)
        n = len(influence)
        variance += float(influence @ influence) * n / max(n - 1, 1)
        malignant += len(np.unique(patient[target == 1]))
    return Spread(float(np.sqrt(variance)) / len(folds), malignant - len(folds))
