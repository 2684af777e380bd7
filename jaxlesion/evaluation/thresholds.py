"""Thresholds chosen on other rows than those they are used on.

They are chosen on predictions as these are written: `data.predictions.as_written` of float32.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import as_written
from jaxlesion.evaluation.metrics import operating_points

Choose = Callable[[np.ndarray, np.ndarray], float]


def best_f1(target: ArrayLike, prediction: ArrayLike) -> float:
    """Return the threshold, one of the predictions, of the highest malignant F1; nan without a malignant row.

    Of several the highest.

    Raises:
        InputError: columns that `metrics` refuses.
    """
    threshold, fp, tp = operating_points(target, as_written(prediction))
    if not tp[-1]:
        return np.nan
    return float(threshold[1:][np.argmax((tp / (tp + fp + tp[-1]))[1:])])  # half of F1


def at_sensitivity(target: ArrayLike, prediction: ArrayLike, sensitivity: float) -> float:
    """Return the highest threshold, one of the predictions, of at least this sensitivity; nan for no malignant row.

    Raises:
        InputError: `sensitivity` is outside (0, 1], or columns that `metrics` refuses.
    """
    if not 0 < sensitivity <= 1:
        raise InputError(f"the wanted sensitivity is {sensitivity}, outside (0, 1]")
    threshold, _, tp = operating_points(target, as_written(prediction))
    return float(threshold[np.argmax(tp / tp[-1] >= sensitivity)]) if tp[-1] else np.nan


def on_other_folds(target: ArrayLike, prediction: ArrayLike, fold: ArrayLike, choose: Choose = best_f1) -> np.ndarray:
    """Return the threshold [n] of each row, chosen on the rows of all folds but its own; nan where there are none.

    Args:
        target: [n] 0 or 1.
        prediction: [n] out-of-fold predictions.
        fold: [n] the fold that held a row out.
        choose: threshold from target and prediction.
    """
    target, prediction, fold = np.asarray(target), np.asarray(prediction), np.asarray(fold)
    threshold = np.full(len(fold), np.nan)
    for k in np.unique(fold):
        held_out = fold == k
        if not held_out.all():
            threshold[held_out] = choose(target[~held_out], prediction[~held_out])
    return threshold
