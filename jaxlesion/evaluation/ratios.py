"""Means and ratios over patients, with intervals: sum of a numerator over sum of a denominator."""

import numpy as np

from jaxlesion.evaluation.intervals import at_edge, percentiles
from jaxlesion.evaluation.summary import Estimate

FEWEST_PATIENTS = 10  # that a ratio rests on, below which it has no interval
LEVELS = 4096  # bins that numerators are averaged in where there are more kinds of patients than KINDS
KINDS = 16_384
ELEMENTS = 1 << 21  # counts of one chunk of resamples


def ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    *,
    resamples: int = 0,
    seed: int = 0,
    best: float = 1.0,
    fewest: int = FEWEST_PATIENTS,
) -> Estimate:
    """Return sum(numerator) / sum(denominator), nan for 0 / 0, with a 95 % interval.

    All patients are drawn together; the limits are percentiles for the G patients that have a denominator, and exact
    at the edges (both in `intervals`).

    Args:
        numerator: [patients].
        denominator: [patients]; 0 for a patient who does not count.
        resamples: of the bootstrap; 0 for no interval.
        seed: of the resamples.
        best: upper end of the range; infinite where there is none.
        fewest: G from which there is an interval.
    """
    total = denominator.sum()
    value = float(numerator.sum() / total) if total else np.nan
    counting = (denominator != 0) | (numerator != 0)
    units = int(np.count_nonzero(denominator))
    if not resamples or units < max(2, fewest) or np.isnan(value):
        return Estimate(value)
    if (edge := at_edge(value, best, units)) is not None:
        return Estimate(value, *edge)
    kinds, size = _kinds(numerator[counting], denominator[counting])
    sample = _resampled(kinds, size, len(numerator), resamples, seed)
    return Estimate(value, *(percentiles(sample, units) or ()))


def _kinds(numerator: np.ndarray, denominator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct pairs [kinds, 2] of numerator and denominator, and how many patients have each."""
    pairs, size = np.unique(np.column_stack([numerator, denominator]), axis=0, return_counts=True)
    if len(pairs) > KINDS:  # only rows without patients are so many
        step = np.ptp(numerator) / LEVELS or 1.0
        bins = np.column_stack([np.floor(numerator / step), denominator])
        pairs, kind, size = np.unique(bins, axis=0, return_inverse=True, return_counts=True)
        pairs[:, 0] = np.bincount(kind.ravel(), numerator) / size
    return pairs, size


def _resampled(kinds: np.ndarray, size: np.ndarray, patients: int, resamples: int, seed: int) -> np.ndarray:
    """Return the ratio [resamples] of draws of all patients; nan where none that counts was drawn."""
    rng = np.random.default_rng(seed)
    chance = np.append(size, patients - size.sum()) / patients
    chunk, sums = max(1, ELEMENTS // len(chance)), []
    for done in range(0, resamples, chunk):
        drawn = rng.multinomial(patients, chance, size=min(chunk, resamples - done))[:, :-1]
        sums.append(drawn @ kinds)
    top, bottom = np.concatenate(sums).T
    return np.divide(top, bottom, out=np.full(resamples, np.nan), where=bottom != 0)
