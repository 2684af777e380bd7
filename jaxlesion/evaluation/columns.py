"""Checks of the two columns that metrics are computed from, and of thresholds."""

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError


def check_columns(target: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both columns as [n], target int64 and prediction float64.

    Raises:
        InputError: not two columns of one length n > 0, a target neither 0 nor 1, or a prediction that is not finite.
    """
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
    """Return both columns as `check_columns` does.

    Raises:
        InputError: as of `check_columns`, or a prediction is outside [0, 1].
    """
    target, prediction = check_columns(target, prediction)
    _reject((prediction < 0) | (prediction > 1), prediction, "prediction", "outside [0, 1]; give sigmoids, not logits")
    return target, prediction


def check_threshold(threshold: ArrayLike) -> None:
    """Raise `InputError` for a threshold that is not finite."""
    if not np.all(np.isfinite(threshold)):
        raise InputError(f"threshold is {threshold}; give a finite number")


def _reject(bad: np.ndarray, column: np.ndarray, name: str, complaint: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{name} in row {row} (from 0; {int(bad.sum())} such rows) is {column[row]}, {complaint}")
