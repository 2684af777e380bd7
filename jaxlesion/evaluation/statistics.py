"""Sums over rows that every metric follows from, for any weighting of the rows' clusters.

A weighting gives each cluster, such as a patient, a multiplicity: 1 for the rows as they are, and what a bootstrap drew
for a resample of them. No row is copied or moved for it. Rows are condensed once into counts and sums by cluster,
and weighting those is a product of matrices. A metric is a function of `Statistics` and never sees a row.

Ranking metrics depend on malignant predictions alone: benign rows are counted between one distinct malignant
prediction ("level") and the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, csr_array

ECE_BINS = 15


class Confusion(NamedTuple):
    """Rows by true class and call, malignant being positive: numbers, or arrays of one shape."""

    tn: ArrayLike
    fp: ArrayLike
    fn: ArrayLike
    tp: ArrayLike
    threshold: float = np.nan
    """Predictions of at least this are called malignant; nan where rows have thresholds of their own."""
    undefined: float = 0.0
    """The rate of a class that has no rows or no calls to take it of."""


@dataclass(frozen=True)
class Statistics:
    """Weighted sums over rows, each an array [r] or [r, k] for r weightings, computed on first use.

    Args:
        rows: the condensed rows.
        weight: [r, clusters] multiplicity of each cluster.
    """

    rows: "Rows"
    weight: np.ndarray

    @cached_property
    def n(self) -> np.ndarray:
        """Number of rows [r]."""
        return self.negatives + self.positives

    @property
    def negatives(self) -> np.ndarray:
        """Number of benign rows [r]."""
        return self._classes[:, 0]

    @property
    def positives(self) -> np.ndarray:
        """Number of malignant rows [r]."""
        return self._classes[:, 1]

    @property
    def one_class(self) -> np.ndarray:
        """Return whether a class has no rows [r]."""
        return (self.negatives == 0) | (self.positives == 0)

    @cached_property
    def tp_above(self) -> np.ndarray:
        """Malignant rows above each level [r, levels], levels rising."""
        return self.positives[:, None] - self._cumulated(self.rows.malignant)

    @cached_property
    def tp(self) -> np.ndarray:
        """Malignant rows at or above each level [r, levels]."""
        return np.concatenate([self.positives[:, None], self.tp_above], axis=1)[:, :-1]

    @cached_property
    def fp_above(self) -> np.ndarray:
        """Benign rows above each level [r, levels]."""
        return self.negatives[:, None] - self._benign[:, 1::2]

    @cached_property
    def fp(self) -> np.ndarray:
        """Benign rows at or above each level [r, levels]."""
        return self.negatives[:, None] - self._benign[:, :-1:2]

    @cached_property
    def sensitivity(self) -> np.ndarray:
        """Sensitivity of calling each level and above malignant [r, levels]; nan without a malignant row."""
        with np.errstate(invalid="ignore"):
            return self.tp / self.positives[:, None]

    @cached_property
    def specificity(self) -> np.ndarray:
        """Specificity of calling each level and above malignant [r, levels]; nan without a benign row."""
        with np.errstate(invalid="ignore"):
            return (self.negatives[:, None] - self.fp) / self.negatives[:, None]

    @property
    def squared_error(self) -> np.ndarray:
        """Sum of squared differences of prediction and target [r]."""
        return self._errors[:, 0]

    @property
    def negative_log_likelihood(self) -> np.ndarray:
        """Sum of negative log likelihoods in nats [r]."""
        return self._errors[:, 1]

    def gaps(self, bins: int) -> np.ndarray:
        """Return the sum of prediction - target in each of some bins of equal width [r, bins]."""
        return self._sum(self.rows.gaps(bins))

    @cached_property
    def confusions(self) -> dict[str, Confusion]:
        """The confusion at each threshold, by its name; counts are [r]."""
        called = self._sum(self.rows.called).T
        return {
            name: Confusion(self.negatives - fp, fp, self.positives - tp, tp, at)
            for (name, at), fp, tp in zip(self.rows.common_thresholds.items(), called[::2], called[1::2], strict=True)
        }

    @cached_property
    def _classes(self) -> np.ndarray:
        return self._sum(self.rows.classes)

    @cached_property
    def _benign(self) -> np.ndarray:
        return self._cumulated(self.rows.benign)

    @cached_property
    def _errors(self) -> np.ndarray:
        return self._sum(self.rows.errors)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted sums [r, k] of values [clusters, k]."""
        return self.weight @ values

    def _cumulated(self, counts: csr_array) -> np.ndarray:
        """Return the weighted rows in each bin and below it [r, bins] of counts [bins, clusters]."""
        return np.cumsum(counts @ self.weight.T, axis=0).T


@dataclass(frozen=True)
class WithoutOne(Statistics):
    """Statistics that leave one unit of a cluster out each, from the total less that unit.

    Args:
        rows: the condensed rows.
        weight: [r] the cluster of the unit that is left out.
    """

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return self.rows.units @ values - values[self.weight]

    def _cumulated(self, counts: csr_array) -> np.ndarray:
        total = np.cumsum(counts @ self.rows.units)
        return total - np.cumsum(counts[:, self.weight].toarray(), axis=0).T


@dataclass(frozen=True)
class Rows:
    """Rows condensed by cluster, each part on first use; no bit of it depends on the order of the rows.

    Args:
        target: [n] 0 or 1.
        prediction: [n] float64; in [0, 1] where `errors` or `gaps` are used.
        cluster: [n] from 0 to `clusters` - 1, each at least once.
        clusters: number of clusters.
        thresholds: by name a threshold for each row [n].
        sizes: [clusters] units in each cluster that are alike; all counts and sums are then of one such unit, the mean
            of them. None for clusters of one unit.
    """

    target: np.ndarray
    prediction: np.ndarray
    cluster: np.ndarray
    clusters: int
    thresholds: Mapping[str, np.ndarray]
    sizes: np.ndarray | None = None
    _gaps: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def single(
        cls, target: np.ndarray, prediction: np.ndarray, thresholds: Mapping[str, ArrayLike] | None = None
    ) -> Self:
        """Take all rows as one cluster."""
        each = {name: np.broadcast_to(at, target.shape) for name, at in (thresholds or {}).items()}
        return cls(target, prediction, np.zeros(len(target), np.int64), 1, each)

    def weighted(self, weight: np.ndarray) -> Statistics:
        """Return the statistics of r weightings [r, clusters]."""
        return Statistics(self, weight)

    def unweighted(self) -> Statistics:
        """Return the statistics of the rows as they are, as of one weighting."""
        return Statistics(self, self.units[None])

    def without(self, clusters: np.ndarray) -> Statistics:
        """Return the statistics without one unit of each of some clusters [r], one at a time."""
        return WithoutOne(self, clusters)

    @property
    def units(self) -> np.ndarray:
        """Number of units in each cluster [clusters]."""
        return np.ones(self.clusters) if self.sizes is None else self.sizes.astype(np.float64)

    @property
    def width(self) -> int:
        """Numbers that one weighting needs in its largest array."""
        return max(self.clusters, self.benign.shape[0])

    @cached_property
    def classes(self) -> np.ndarray:
        """Benign and malignant rows [clusters, 2]."""
        return self._by_class(None)

    @cached_property
    def malignant(self) -> csr_array:
        """Malignant rows by level and cluster [levels, clusters]."""
        level = np.searchsorted(self._levels, self.prediction[self._is_malignant])
        return self._count(level, len(self._levels), self._is_malignant)

    @cached_property
    def benign(self) -> csr_array:
        """Benign rows by bin and cluster: below the first level, equal to it, between it and the second, and so on."""
        benign = self.prediction[~self._is_malignant]
        between = sum(np.searchsorted(self._levels, benign, side) for side in ("left", "right"))
        return self._count(between, 2 * len(self._levels) + 1, ~self._is_malignant)

    @cached_property
    def errors(self) -> np.ndarray:
        """Sums [clusters, 2] of squared error and of negative log likelihood, predictions kept 2.2e-16 off 0 and 1."""
        target, prediction, cluster = self._sorted
        start = np.searchsorted(cluster, np.arange(self.clusters))
        sums = [np.add.reduceat(column, start) for column in losses(target, prediction)]  # pairwise, as np.sum
        return np.column_stack(sums) / self.units[:, None]

    def gaps(self, bins: int) -> np.ndarray:
        """Return the sum of prediction - target by cluster and bin [clusters, bins]; it is kept for the next call."""
        if bins not in self._gaps:
            target, prediction, cluster = self._sorted
            cell = cluster * bins + calibration_bin(prediction, bins)
            sums = np.bincount(cell, prediction - target, self.clusters * bins)
            self._gaps[bins] = sums.reshape(self.clusters, bins) / self.units[:, None]
        return self._gaps[bins]

    @cached_property
    def called(self) -> np.ndarray:
        """Benign and malignant rows called malignant [clusters, 2 thresholds], threshold by threshold."""
        counts = [self._by_class((self.prediction >= at).astype(np.float64)) for at in self.thresholds.values()]
        return np.concatenate(counts, axis=1) if counts else np.empty((self.clusters, 0))

    @cached_property
    def common_thresholds(self) -> dict[str, float]:
        """Each threshold's value by name; nan if it differs between rows."""
        return {name: float(at[0]) if (at == at[0]).all() else np.nan for name, at in self.thresholds.items()}

    @cached_property
    def _sorted(self) -> list[np.ndarray]:
        """Target, prediction and cluster, by cluster and content: the last bits of a sum depend on its order."""
        order = np.lexsort((self.target, self.prediction, self.cluster))
        return [column[order] for column in (self.target, self.prediction, self.cluster)]

    @cached_property
    def _is_malignant(self) -> np.ndarray:
        return self.target == 1

    @cached_property
    def _levels(self) -> np.ndarray:
        return np.unique(self.prediction[self._is_malignant])

    def _count(self, position: np.ndarray, bins: int, which: np.ndarray) -> csr_array:
        """Count some of the rows by their position, from 0 to `bins` - 1, and cluster [bins, clusters]."""
        cluster = self.cluster[which]
        counts = coo_array((np.ones(len(position)), (position, cluster)), shape=(bins, self.clusters)).tocsr()
        counts.data /= self.units[counts.indices]  # whole: units of a cluster are alike
        return counts

    def _by_class(self, summand: np.ndarray | None) -> np.ndarray:
        """Return the sum of a column [n], or the number of rows, by cluster and class [clusters, 2]."""
        cells = np.bincount(2 * self.cluster + self.target, summand, 2 * self.clusters)
        return cells.reshape(self.clusters, 2) / self.units[:, None]


def losses(target: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return squared error and negative log likelihood [n], for which predictions are kept 2.2e-16 off 0 and 1."""
    epsilon = np.finfo(np.float64).eps
    likelihood = np.clip(np.where(target, prediction, 1 - prediction), epsilon, 1 - epsilon)
    return (prediction - target) ** 2, -np.log(likelihood)


def calibration_bin(prediction: ArrayLike, bins: int = ECE_BINS) -> np.ndarray:
    """Return the bin [n] of each prediction, among bins of equal width over [0, 1], closed above; 0 is in the first."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], np.asarray(prediction, np.float64), side="left")
