"""Metrics of calibration: distances of probabilities from the shares that are observed.

Each takes target [n], prediction [n] in [0, 1] and weight [n] of the rows (None for 1). Predictions of 0 and 1 have
finite log odds, as in `calibration.logit`.
"""

import numpy as np
from scipy.special import expit

from jaxlesion.evaluation.calibration import logit
from jaxlesion.evaluation.logistic import fit_logistic
from jaxlesion.evaluation.statistics import ECE_BINS

KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)  # quantiles (Harrell 2015, "Regression Modeling Strategies", table 2.3)
Weight = np.ndarray | None


def expected_over_observed(target: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    """Return the sum of predictions over the number of malignant rows; 1 is right, above 1 they are too high."""
    observed = np.average(target, weights=weight)
    return float(np.average(prediction, weights=weight) / observed) if observed else np.nan


def calibration_in_the_large(target: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    """Return the a of sigmoid(a + log odds); 0 is right, below 0 predictions are too high (Cox 1958)."""
    found = fit_logistic(np.ones((len(target), 1)), target.astype(np.float64), logit(prediction), weight)
    return np.nan if found is None else float(found[0])


def calibration_slope(target: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    """Return the b of sigmoid(a + b log odds); 1 is right, below 1 predictions are too extreme (Cox 1958).

    nan where the rows are separated or the predictions all equal.
    """
    design = np.column_stack([np.ones(len(target)), logit(prediction)])
    found = fit_logistic(design, target.astype(np.float64), weight=weight)
    return np.nan if found is None else float(found[1])


def integrated_calibration_index(target: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    """Return the mean of |prediction - smoothed share of malignant rows|; 0 is right.

    Austin and Steyerberg 2019, "The Integrated Calibration Index (ICI)", Statistics in Medicine 38. They smooth by
    loess; here a logistic regression on a restricted cubic spline of the log odds with five knots smooths, as in
    Austin, Harrell and van Klaveren 2020, Statistics in Medicine 39. nan where it cannot be fitted.
    """
    z = logit(prediction)
    design = np.column_stack([np.ones(len(z)), restricted_cubic_spline(z, np.unique(np.quantile(z, KNOTS)))])
    if not np.ptp(z):
        design = design[:, :1]
    found = fit_logistic(design, target.astype(np.float64), weight=weight)
    if found is None:
        return np.nan
    smooth = expit(design @ found)
    return float(np.average(np.abs(prediction - smooth), weights=weight))


def restricted_cubic_spline(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return the columns [n, knots - 1] of a cubic spline that is linear below the first and above the last knot.

    x itself comes first. Harrell 2015, equation 2.25, divided by the square of the distance of the outer knots. With
    fewer than three knots there is no other column.
    """
    columns = [x]
    if len(knots) > 2:
        last, before = knots[-1], knots[-2]
        outer, before_outer = (np.maximum(x - knot, 0) ** 3 for knot in (last, before))
        for knot in knots[:-2]:
            bend = np.maximum(x - knot, 0) ** 3
            bend = bend - before_outer * (last - knot) / (last - before) + outer * (before - knot) / (last - before)
            columns.append(bend / (last - knots[0]) ** 2)
    return np.column_stack(columns)


def equal_mass_error(target: np.ndarray, prediction: np.ndarray, weight: Weight = None, bins: int = ECE_BINS) -> float:
    """Return the mean of |share of malignant rows - mean prediction| over bins of equal weight, weighted by theirs.

    A bin ends at the first prediction where its share of the weight is reached; equal predictions are in one bin.
    Nguyen and O'Connor 2015, "Posterior calibration and exploratory analysis", EMNLP, for bins of equal mass.
    """
    weight = np.ones(len(target)) if weight is None else weight
    order = np.argsort(prediction, kind="stable")
    p, w, y = prediction[order], weight[order], target[order]
    until = np.cumsum(w)
    ends = np.searchsorted(until, until[-1] * np.arange(1, bins) / bins * (1 - 1e-12))
    which = np.searchsorted(np.unique(p[np.minimum(ends, len(p) - 1)]), p, side="left")
    return float(np.abs(np.bincount(which, w * (p - y))).sum() / until[-1])


def scaled_brier(target: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    """Return 1 - Brier score / Brier score of the share of malignant rows; 1 at best, 0 for that constant.

    Steyerberg et al. 2010, "Assessing the performance of prediction models", Epidemiology 21. nan for one class.
    """
    share = np.average(target, weights=weight)
    constant = share * (1 - share)
    return float(1 - np.average((prediction - target) ** 2, weights=weight) / constant) if constant else np.nan
