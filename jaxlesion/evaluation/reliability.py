"""Reliability diagrams: predicted against observed shares of malignant rows."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


class Reliability(NamedTuple):
    """A reliability diagram: predicted against observed shares in bins, each [bins] but `edges` [bins + 1]."""

    edges: np.ndarray
    """Bin i holds edges[i] < prediction <= edges[i + 1]; the first also its lower edge."""
    mean_prediction: np.ndarray
    observed: np.ndarray
    """Share of malignant rows."""
    count: np.ndarray
    low: np.ndarray
    """95 % interval of `observed`: Wilson's, by patient where patients are given."""
    high: np.ndarray


def reliability(
    target: ArrayLike,
    prediction: ArrayLike,
    bins: int = 10,
    equal: Literal["mass", "width"] = "mass",
    patient: np.ndarray | None = None,
) -> Reliability:
    """Return predicted and observed shares of malignant rows in bins.

    Bins of equal mass hold equally many rows, which suits rare malignant rows: of bins of equal width over [0, 1] the
    first would hold nearly all. Equal predictions are never in two bins, so that there may be fewer than `bins`.
    In an empty bin of equal width all but the count is nan.

    With patients, a bin's interval is Wilson's for as many independent rows as give the variance of its share between
    patients (Franco, Little, Louis and Slud 2019, Journal of Survey Statistics and Methodology 7). A bin that shows no
    variance, such as one without a malignant row, has the fewest per row of the other bins.

    Args:
        target: [n] 0 or 1.
        prediction: [n] in [0, 1].
        bins: number of bins, at most.
        equal: the quantity that bins have in common.
        patient: [n] integers from 0; None to take rows for independent.

    Raises:
        InputError: no rows, or two columns of different length.
    """
    y, p = np.asarray(target, np.float64), np.asarray(prediction, np.float64)
    if y.ndim != 1 or y.shape != p.shape or not y.size:
        raise InputError(f"target has shape {y.shape} and prediction {p.shape}; give two columns of equal length")
    if equal == "width":
        edges = np.linspace(0, 1, bins + 1)
    else:  # upper edges are values that occur, so that no bin is empty
        ranked, last = np.sort(p), np.arange(1, bins + 1) * len(p) // bins - 1
        edges = np.append(ranked[0], np.unique(ranked[np.maximum(last, 0)]))
    which = np.searchsorted(edges[1:-1], p, side="left")
    count = np.bincount(which, minlength=len(edges) - 1)
    hits, total = (np.bincount(which, weights, minlength=len(count)) for weights in (y, p))
    some = np.where(count, count, np.nan)
    size = count if patient is None else independent_rows(y, which, np.asarray(patient), len(count))
    low, high = wilson(np.nan_to_num(hits / some) * size, size)
    return Reliability(edges, total / some, hits / some, count, low, high)


def independent_rows(target: np.ndarray, which: np.ndarray, patient: np.ndarray, bins: int) -> np.ndarray:
    """Return for how many independent rows [bins] the share of malignant rows is as sure as between patients.

    share (1 - share) / variance, at most the number of rows. The variance is that of a ratio of sums over G patients,
    G / (G - 1) sum((malignant - share rows)^2) / rows^2 (Cochran 1977, "Sampling Techniques", section 6.4).

    Args:
        target: [n] 0 or 1.
        which: [n] the bin of each row.
        patient: [n] integers from 0.
        bins: number of them.
    """
    cell, index = np.unique(which.astype(np.int64) * (int(patient.max()) + 1) + patient, return_inverse=True)
    rows, malignant = np.bincount(index), np.bincount(index, target)
    inside = cell // (int(patient.max()) + 1)
    count, hits, patients = (np.bincount(inside, weights, bins) for weights in (rows, malignant, None))
    share = hits / np.maximum(count, 1)
    squares = np.bincount(inside, (malignant - share[inside] * rows) ** 2, bins)
    variance = squares * patients / np.maximum(patients - 1, 1) / np.maximum(count, 1) ** 2
    shows = variance > 0
    ratio = np.divide(share * (1 - share), variance * count, out=np.ones(bins), where=shows)
    ratio = np.minimum(np.where(shows, ratio, ratio[shows].min() if shows.any() else 1.0), 1.0)
    return ratio * count


def wilson(hits: ArrayLike, count: ArrayLike, z: float = Z_95) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper end of the score interval of a share (Wilson 1927, JASA 22); nan where `count` is 0."""
    n = np.where(np.asarray(count) > 0, count, np.nan).astype(np.float64)
    share = np.asarray(hits, np.float64) / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)
