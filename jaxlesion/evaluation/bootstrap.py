"""How far a figure could be off: a bootstrap of patients, for one set of predictions or for two on the same rows.

Lesions of one patient resemble each other, so whole patients are drawn, with replacement: as many as there are, of
those with a malignant lesion and of those without apart. Drawing rows, or DeLong's formula, under-covers wherever
patients have several lesions: of 2,000 simulated sets of 100 patients with 8 lesions each, half of the scores' variance
being the patients', intervals of 500 draws held the true AUC in 94.4 % by patient and in 89.0 % by row (`coverage` in
`tests/test_intervals.py`).

Intervals are percentiles of the draws. Thresholds stay what they are in every draw. A figure at the edge of what it can
be, such as an AUC of 1, gets an interval without width: the draws cannot know what was never seen.

A draw is a multiplicity for each patient. No row is moved: predictions are sorted once, the benign ones counted between
one malignant prediction and the next, and those counts are all that areas and operating points depend on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.metrics import (
    ECE_BINS,
    MIN_TPR,
    WANTED,
    calibration_bin,
    check_probability,
    rates,
    sensitivity_key,
    specificity_key,
)

DRAWS = 2000
LEVEL = 0.95
MOST_UNDEFINED = 0.05  # share of draws that may lack a class before an interval is withheld
ELEMENTS = 1 << 21  # float64 numbers in one array of a chunk of draws: 16 MB, a few of them at once


@dataclass(frozen=True)
class Scores:
    """Predictions [n] and their thresholds: a prefix of the figures' names, and a number or one per row."""

    prediction: ArrayLike
    thresholds: Mapping[str, ArrayLike] = field(default_factory=lambda: {"": 0.5})


@dataclass(frozen=True)
class Resampled:
    """The draws.

    Args:
        by: what was drawn; `row` where no patient has two rows.
        clusters: how many there are with a malignant row, and without.
        samples: for each of the scores, name of the figure -> [draws] values, nan where undefined.
    """

    by: Literal["patient", "row"]
    clusters: tuple[int, int]
    samples: tuple[dict[str, np.ndarray], ...]


class Difference(NamedTuple):
    """Interval of a difference and its two-sided p."""

    low: float
    high: float
    p: float


def resample(
    target: ArrayLike,
    scores: Sequence[Scores],
    patient: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int | Sequence[int] = 0,
    tick: Callable[[int], object] = lambda draws: None,
) -> Resampled:
    """Every headline figure of every draw; the same draws for all scores, whatever the order of the rows.

    The figures are `roc_auc`, `pr_auc`, `pauc`, sensitivity and specificity at a wanted value of the other, `brier`
    and `ece`, and for each threshold those of `metrics.rates` with its prefix. Each is exactly what `metrics` gives for
    the rows drawn. A stratum of one patient would never vary and is merged with the other.

    Args:
        target: [n] 0 or 1.
        scores: one or more predictions of the same n rows.
        patient: [n] sortable names; None draws rows.
        draws: how many.
        seed: of the draws.
        tick: called with the number of draws just done.

    Raises:
        InputError: columns that `metrics.summary` refuses, or fewer than one draw.
    """
    if draws < 1:
        raise InputError(f"{draws} draws give no interval; draw some thousand")
    columns = [check_probability(target, one.prediction) for one in scores]
    target = columns[0][0]
    keys = [prediction for _, prediction in columns] + [target]
    keys += [] if patient is None else [np.unique(np.asarray(patient), return_inverse=True)[1]]
    order = np.lexsort(keys)  # sums, and which row is the first, depend on the content alone
    cluster, sizes, clusters = _strata(target[order], np.arange(len(order)) if patient is None else keys[-1][order])
    condensed = [
        _Condensed.of(
            target[order],
            prediction[order],
            cluster,
            {name: np.broadcast_to(at, target.shape)[order] for name, at in one.thresholds.items()},
        )
        for one, (_, prediction) in zip(scores, columns, strict=True)
    ]
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in scores]
    chunk = max(1, ELEMENTS // max(sum(clusters), *(c.width for c in condensed)))
    for weight in _weights(sizes, draws, chunk, seed):
        for part, one in zip(parts, condensed, strict=True):
            part.append(one.figures(weight))
        tick(len(weight))
    samples = tuple({name: np.concatenate([p[name] for p in part]) for name in part[0]} for part in parts)
    if sum(clusters) == 1:
        samples = tuple({name: np.full(draws, np.nan) for name in one} for one in samples)
    return Resampled("row" if sum(clusters) == len(target) else "patient", clusters, samples)


def interval(sample: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of one figure's draws [draws]; None where over 5 % of them are undefined.

    The limits are the draws of rank (1 + draws) (1 - level) / 2 from below and above, interpolated where not whole.
    """
    defined = sample[~np.isnan(sample)]
    if len(defined) < (1 - MOST_UNDEFINED) * len(sample):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2], method="weibull")
    return float(low), float(high)


def difference(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> Difference | None:
    """Interval of a - b from paired draws [draws] of one figure; None where over 5 % of them are undefined.

    p is twice the smaller share of draws that do not lie on one side of 0, (1 + number) / (1 + draws), at most 1
    (Davison and Hinkley 1997, section 4.2, for the percentile interval turned round).
    """
    gap = a - b
    if (limits := interval(gap, level)) is None:
        return None
    gap = gap[~np.isnan(gap)]
    least = min(np.count_nonzero(gap <= 0), np.count_nonzero(gap >= 0))
    return Difference(*limits, p=float(min(1, 2 * (1 + least) / (1 + len(gap)))))


def _strata(target: np.ndarray, name: np.ndarray) -> tuple[np.ndarray, list[int], tuple[int, int]]:
    """Cluster of each row, those with a malignant row first; sizes of the strata; clusters with one, without."""
    malignant = np.bincount(name, weights=target) > 0
    rank = np.empty(len(malignant), np.int64)
    rank[np.argsort(~malignant, kind="stable")] = np.arange(len(malignant))
    counts = int(malignant.sum()), int((~malignant).sum())
    return rank[name], [sum(counts)] if 1 in counts else [n for n in counts if n], counts


def _weights(sizes: Sequence[int], draws: int, chunk: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, [<= chunk, clusters] at a time; no draw depends on the size of a chunk."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *sizes])
    for done in range(0, draws, chunk):
        weight = np.empty((min(chunk, draws - done), starts[-1]))
        for row in weight:
            for start, n in zip(starts, sizes, strict=False):
                row[start : start + n] = np.bincount(rng.integers(n, size=n), minlength=n)
        yield weight


@dataclass(frozen=True)
class _Counts:
    """Rows by cluster and bin of a sorted axis, as the cells that are not empty, bin by bin.

    Args:
        cluster, rows: [cells] of each cell.
        end: [bins] number of cells up to and with each bin.
    """

    cluster: np.ndarray
    rows: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, position: np.ndarray, bins: int, cluster: np.ndarray, clusters: int) -> Self:
        cell, rows = np.unique(position * clusters + cluster, return_counts=True)
        return cls(cell % clusters, rows, np.searchsorted(cell, np.arange(1, bins + 1) * clusters))

    def cumulate(self, weight: np.ndarray) -> np.ndarray:
        """Weighted rows [draws, bins] in each bin and below it."""
        total = np.zeros((len(weight), len(self.cluster) + 1))
        np.cumsum(weight[:, self.cluster] * self.rows, axis=1, out=total[:, 1:])
        return total[:, self.end]


@dataclass(frozen=True)
class _Condensed:
    """What the figures of any weighting of clusters follow from.

    Args:
        malignant: by distinct malignant prediction ("level"), rising.
        benign: below the first level, equal to it, between it and the second, ...: 2 levels + 1 bins.
        sums: [clusters, columns] of rows, malignant rows, squared error, gap in each bin of calibration, and
            true and false positives at each threshold.
        prefixes: of the thresholds.
    """

    malignant: _Counts
    benign: _Counts
    sums: np.ndarray
    prefixes: tuple[str, ...]

    @classmethod
    def of(
        cls, target: np.ndarray, prediction: np.ndarray, cluster: np.ndarray, thresholds: Mapping[str, np.ndarray]
    ) -> Self:
        n, is_malignant = int(cluster.max()) + 1, target == 1
        levels, level = np.unique(prediction[is_malignant], return_inverse=True)
        between = sum(np.searchsorted(levels, prediction[~is_malignant], side) for side in ("left", "right"))
        gap, where = prediction - target, calibration_bin(prediction)
        columns = [np.ones(len(target)), target, gap**2, *(gap * (where == b) for b in range(ECE_BINS))]
        for at in thresholds.values():
            columns += [(prediction >= at) & is_malignant, (prediction >= at) & ~is_malignant]
        return cls(
            _Counts.of(level, len(levels), cluster[is_malignant], n),
            _Counts.of(between, 2 * len(levels) + 1, cluster[~is_malignant], n),
            np.stack([np.bincount(cluster, column, minlength=n) for column in columns], axis=1),
            tuple(thresholds),
        )

    @property
    def width(self) -> int:
        """Numbers that one draw needs in the largest array."""
        return max(len(self.malignant.cluster), len(self.benign.cluster), len(self.benign.end))

    def figures(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Name of the figure -> [draws] values, for the multiplicities [draws, clusters]."""
        n, positives, squared, *rest = (weight @ self.sums).T
        figures = self._ranking(weight, n - positives, positives)
        figures |= {"brier": squared / n, "ece": np.abs(rest[:ECE_BINS]).sum(0) / n}
        for prefix, tp, fp in zip(self.prefixes, rest[ECE_BINS::2], rest[ECE_BINS + 1 :: 2], strict=True):
            shares = rates(n - positives - fp, fp, positives - tp, tp)
            figures |= {prefix + name: share for name, share in shares.items()}
        return figures

    def _ranking(self, weight: np.ndarray, negatives: np.ndarray, positives: np.ndarray) -> dict[str, np.ndarray]:
        """Areas and operating points as in `metrics`, for many draws, from the rows at and above each level."""
        names = ["roc_auc", "pr_auc", "pauc", *map(sensitivity_key, WANTED), *map(specificity_key, WANTED)]
        if not len(self.malignant.end):
            return {name: np.full(len(weight), np.nan) for name in names}
        positive, negative = positives[:, None], negatives[:, None]
        up_to, benign = self.malignant.cumulate(weight), self.benign.cumulate(weight)
        tp_above, fp_above = positive - up_to, negative - benign[:, 1::2]
        tp, fp = np.concatenate([positive, tp_above[:, :-1]], axis=1), negative - benign[:, :-1:2]
        hits = tp - tp_above
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw of one class
            specificity, sensitivity = (negative - fp) / negative, tp / positive
            precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=hits > 0)
            values = [
                (hits * (2 * negative - fp - fp_above)).sum(1) / (2 * positives * negatives),
                (hits * precision).sum(1) / positives,
                # The flipped curve, from (missed, specificity) at each level to the same above it.
                _area_left_of_cut(1 - sensitivity, hits / positive, specificity, (fp - fp_above) / negative),
                *(np.where(specificity >= wanted, sensitivity, 0).max(1) for wanted in WANTED),
                *(np.where(sensitivity >= wanted, specificity, 0).max(1) for wanted in WANTED),
            ]
        one_class = (positives == 0) | (negatives == 0)
        return {name: np.where(one_class, np.nan, value) for name, value in zip(names, values, strict=True)}


def _area_left_of_cut(x: np.ndarray, dx: np.ndarray, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Area [draws] under lines from (x, y) to (x + dx, y + dy), left of x = 1 - MIN_TPR."""
    inside = np.clip(1 - MIN_TPR - x, 0, dx)
    share = np.divide(inside, dx, out=np.zeros_like(x), where=dx > 0)
    return (inside * (y + dy * share / 2)).sum(1)
