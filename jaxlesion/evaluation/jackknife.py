"""Jackknife of patients: errors of metrics, by leaving each patient out once."""

import numpy as np

from jaxlesion.evaluation import registry
from jaxlesion.evaluation.intervals import MOST_UNDEFINED, Spread
from jaxlesion.evaluation.statistics import Rows

ELEMENTS = 1 << 20  # float64 numbers in one array of a chunk of replicates


def replicates(rows: Rows, ranked: Rows | None = None) -> dict[str, np.ndarray]:
    """Return metrics without one unit of each cluster [clusters] by key, nan where undefined.

    Args:
        rows: by prediction.
        ranked: the same by rank within the fold; None for the predictions.
    """
    widest = max(one.benign.shape[0] for one in (rows, ranked or rows))
    chunk, numbers, parts = max(1, ELEMENTS // widest), np.arange(rows.clusters), []
    for start in range(0, rows.clusters, chunk):
        which = numbers[start : start + chunk]
        parts.append(registry.left_out(rows.without(which), None if ranked is None else ranked.without(which)))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def spreads(rows: Rows, ranked: Rows | None = None) -> dict[str, Spread]:
    """Return the spread of every metric whose interval is by leaving units out; arguments as of `replicates`."""
    return {key: spread(value, rows.units) for key, value in replicates(rows, ranked).items()}


def spread(value: np.ndarray, units: np.ndarray) -> Spread:
    """Return the jackknife's standard error of a metric, (n - 1) / n sum(t_i - mean)^2 over all n units.

    A replicate that is undefined is omitted and counted; where over 5 % are, the error is nan.

    Args:
        value: [clusters] the metric without one unit of each.
        units: [clusters] units of each.
    """
    omitted = np.isnan(value)
    weight, value = np.where(omitted, 0, units), np.nan_to_num(value)
    n, left = weight.sum(), int(units[omitted].sum())
    if n < 2 or n < (1 - MOST_UNDEFINED) * units.sum():
        return Spread(np.nan, 0, left)
    square = (value - weight @ value / n) ** 2
    return Spread(float(np.sqrt((n - 1) / n * (weight @ square))), degrees(square, weight), left)


def degrees(square: np.ndarray, weight: np.ndarray) -> float:
    """Return the degrees of freedom of a sum of squares [k], each there as often as its weight [k].

    Satterthwaite (1946): 2 E(v)^2 / Var(v) of the variance v, with the variance of the squares as found. Normal
    summands have as many degrees as there are; where few patients make most of the sum, there are few.
    """
    total, n = weight @ square, weight.sum()
    varies = weight @ (square - total / n) ** 2
    return float(2 * total**2 / varies) if varies > 0 else float(n)
