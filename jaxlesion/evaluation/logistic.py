"""Logistic regression by Newton's method: few columns, many rows, fractional targets and weights."""

import numpy as np
from scipy import special

STEPS, HALVINGS = 100, 40
TOLERANCE = 1e-10  # of the last step, in standard deviations of a column
LARGEST = 1e4  # of a coefficient, per standard deviation: beyond it the rows are separated


def fit_logistic(
    design: np.ndarray, target: np.ndarray, offset: np.ndarray | float = 0.0, weight: np.ndarray | None = None
) -> np.ndarray | None:
    """Return the coefficients [p] of the least weighted log loss of sigmoid(offset + design @ coefficients).

    None where there is none: one class only, rows that a combination of the columns separates, or columns that
    depend on each other.

    Args:
        design: [n, p]; a constant column is an intercept.
        target: [n] in [0, 1]; the expected share of malignant rows where it is a fraction.
        offset: [n] added to the log odds as it is.
        weight: [n] of each row; None for 1.
    """
    weight = np.ones(len(target)) if weight is None else weight
    scale = np.where((spread := design.std(0)) > 0, spread, np.abs(design).max(0, initial=0))
    if not (scale > 0).all():
        return None
    x, found = design / scale, np.zeros(design.shape[1])
    log_odds = np.broadcast_to(np.asarray(offset, np.float64), target.shape)
    loss = _loss(log_odds, target, weight)
    for _ in range(STEPS):
        p = special.expit(log_odds)
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x
        try:
            step = np.linalg.solve(curvature, x.T @ (weight * (target - p)))
        except np.linalg.LinAlgError:
            return None
        size = 1.0
        for _ in range(HALVINGS):
            trial = offset + x @ (found + size * step)
            if (after := _loss(trial, target, weight)) <= loss + 1e-12 * abs(loss):
                break
            size /= 2
        found, log_odds, loss = found + size * step, trial, after
        if not np.isfinite(found).all() or np.abs(found).max() > LARGEST:
            return None
        if np.abs(size * step).max() < TOLERANCE * max(1.0, np.abs(found).max()):
            return found / scale
    return None


def _loss(log_odds: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    return float(np.sum(weight * (np.logaddexp(0, log_odds) - target * log_odds)))
