"""How far an area under the ROC curve could be off, by leaving each patient out once."""

from collections.abc import Callable

import numpy as np

from jaxlesion.evaluation.intervals import MOST_UNDEFINED, Spread
from jaxlesion.evaluation.statistics import Rows, Statistics

ELEMENTS = 1 << 20  # float64 numbers in one array of a chunk of replicates


def replicates(rows: Rows, formula: Callable[[Statistics], np.ndarray]) -> np.ndarray:
    """Return a metric without one unit of each cluster [clusters], nan where a class is then missing."""
    chunk = max(1, ELEMENTS // max(1, rows.benign.shape[0]))
    starts = range(0, rows.clusters, chunk)
    numbers = np.arange(rows.clusters)
    return np.concatenate([formula(rows.without(numbers[start : start + chunk])) for start in starts])


def spread(rows: Rows, formula: Callable[[Statistics], np.ndarray]) -> Spread:
    """Return the jackknife's standard error of a metric, (n - 1) / n sum(t_i - mean)^2 over all n units.

    The degrees of freedom are the units with a malignant row less one. A replicate that lacks a class is omitted; where
    that is over 5 % of them, the error is nan.
    """
    value, units = replicates(rows, formula), rows.units.copy()
    units[np.isnan(value)] = 0
    degrees = int(rows.units[rows.classes[:, 1] > 0].sum()) - 1
    n = units.sum()
    if n < (1 - MOST_UNDEFINED) * rows.units.sum() or n < 2:
        return Spread(np.nan, degrees)
    value = np.nan_to_num(value)
    deviation = value - units @ value / n
    return Spread(float(np.sqrt((n - 1) / n * (units @ deviation**2))), degrees)
