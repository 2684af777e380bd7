"""Permutation test of two models on the same rows: p by swapping their predictions, patient by patient.

If two models are alike, each patient's predictions could as well have come from the other model (Bandos, Rockette and
Gur 2005, Statistics in Medicine 24). Raw predictions are not exchangeable where one model is surer than the other, so
that ranking metrics swap mid-ranks within the fold, metrics at a threshold swap the calls, and metrics of probabilities
swap calibrated ones, without which they have no p. p = (1 + b) / (1 + B), b of B swaps having a difference at
least as large as the observed one (Phipson and Smyth 2010). A swap in which a metric is undefined counts as such.

Ranks, calls and probabilities are swapped independently: only a metric's own p is wanted, and of what one of them
depends on there are far fewer kinds of patients than of all three.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

from jaxlesion.evaluation import registry
from jaxlesion.evaluation.statistics import Rows, Statistics
from jaxlesion.evaluation.units import Units, gap, rounded, units_of

SWAPS = 10_000
KINDS = 1 << 23  # small integers in one array of a chunk of swaps, by kind
ELEMENTS = 1 << 21  # float64 numbers in one array of a chunk of swaps, by level
ALIKE = 1e-12  # differences this near are equal


class Model(NamedTuple):
    """Predictions of one of two models.

    Args:
        prediction: [n] in [0, 1].
        rank: [n] mid-ranks within the fold, as of `mid_ranks`.
        thresholds: by prefix of the metrics' keys a threshold for each row [n].
        probability: [n] calibrated probabilities; without those of both models, metrics of them are left out.
    """

    prediction: np.ndarray
    rank: np.ndarray
    thresholds: Mapping[str, np.ndarray]
    probability: np.ndarray | None = None


def mid_ranks(prediction: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the rank [n] of each prediction among the rows of its fold, in (0, 1]; ties share the mean of theirs."""
    rank = np.empty(len(prediction))
    for k in np.unique(fold):
        inside = fold == k
        rank[inside] = rankdata(prediction[inside]) / inside.sum()
    return rank


def swap_p(
    target: np.ndarray,
    patient: np.ndarray,
    models: tuple[Model, Model],
    *,
    swaps: int = SWAPS,
    seed: int | tuple[int, ...] = 0,
    tick: Callable[[int], object] = lambda swaps: None,
) -> dict[str, float]:
    """Return the two-sided p of every registered metric that has an interval; nan where its difference is undefined.

    Args:
        target: [n] 0 or 1.
        patient: [n] from 0; rows of a patient are swapped together.
        models: the two.
        swaps: number B of random swaps.
        seed: of them.
        tick: called with the number of swaps just done.
    """
    found = {}
    for name, view in _views(models).items():
        units = _units(target, patient, name, view)
        rows, moves = _stacked(target, view, units), {}
        observed = _differences(view, rows, np.zeros((len(units.sizes), 1), np.uint8), moves)
        least = {key: abs(value[0]) - ALIKE for key, value in observed.items()}
        larger = dict.fromkeys(observed, 0)
        chunk = max(1, min(KINDS // len(units.sizes), ELEMENTS // (2 * rows.benign.shape[0])))
        for swapped in _swaps(units, swaps, chunk, seed):
            for key, value in _differences(view, rows, swapped, moves).items():
                larger[key] += int(np.count_nonzero(~(np.abs(value) < least[key])))
            tick(swapped.shape[1] if name == "ranks" else 0)  # nearly all time is that of ranks
        for key, count in larger.items():
            found[key] = np.nan if np.isnan(observed[key][0]) else (1 + count) / (1 + swaps)
    return found


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p values adjusted for their number (Holm 1979): the chance of any false alarm is at most the level."""
    order, adjusted, largest = sorted(p, key=lambda key: p[key]), {}, 0.0
    for done, key in enumerate(order):
        largest = max(largest, min(1.0, p[key] * (len(order) - done)))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p}


class _View(NamedTuple):
    """A column of each model that is swapped, and what is thresholded in it."""

    columns: tuple[np.ndarray, np.ndarray]
    metrics: Callable[[Statistics], dict[str, np.ndarray]]
    thresholds: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] = ({}, {})


def _views(models: tuple[Model, Model]) -> dict[str, _View]:
    """Return what ranking metrics, calls and probabilities are computed from."""
    of_order, of_probability = (
        [m for m in registry.OF_PREDICTIONS if m.interval and m.of_order == order] for order in (True, False)
    )
    views = {
        "ranks": _View(tuple(model.rank for model in models), partial(_values, of_order)),
        "calls": _View(tuple(m.prediction for m in models), _rates, tuple(model.thresholds for model in models)),
    }
    probabilities = tuple(model.probability for model in models)
    if all(one is not None for one in probabilities):
        views["probabilities"] = _View(probabilities, partial(_values, of_probability))
    return views


def _values(metrics: Sequence[registry.Metric], statistics: Statistics) -> dict[str, np.ndarray]:
    return {metric.key: metric.formula(statistics) for metric in metrics}


def _rates(statistics: Statistics) -> dict[str, np.ndarray]:
    found = {}
    for prefix, confusion in statistics.confusions.items():
        found |= {prefix + key: rate for key, rate in registry.rates(*confusion[:4]).items()}
    return found


def _units(target: np.ndarray, patient: np.ndarray, name: str, view: _View) -> Units:
    """Return the kinds of patients that no metric of a view tells apart."""
    columns = [target]
    levels = np.unique(np.concatenate([of[target == 1] for of in view.columns]))
    for column, thresholds in zip(view.columns, view.thresholds, strict=True):
        columns += [gap(levels, column)] if name == "ranks" else []
        columns += [column >= at for at in thresholds.values()]
        columns += rounded(target, column) if name == "probabilities" else []
    return units_of(patient, columns)


def _stacked(target: np.ndarray, view: _View, units: Units) -> Rows:
    """Return the rows of both models, a patient's of each being a cluster."""
    kinds = len(units.sizes)
    a, b = view.thresholds
    return Rows(
        np.tile(target, 2),
        np.concatenate(view.columns),
        np.concatenate([units.kind, units.kind + kinds]),
        2 * kinds,
        {name: np.concatenate([a[name], b[name]]) for name in a},
        np.tile(units.sizes, 2),
    )


def _swaps(units: Units, swaps: int, chunk: int, seed: int | tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield how many patients of each kind are swapped [kinds, <= chunk].

    Of a kind with up to 64 patients this is the number of ones among as many random bits.
    """
    rng, sizes = np.random.default_rng(seed), units.sizes
    words = [
        (np.flatnonzero((sizes > least) & (sizes <= bits)), bits, kind)
        for least, bits, kind in ((0, 8, np.uint8), (8, 64, np.uint64))
    ]
    many = np.flatnonzero(sizes > 64)
    for done in range(0, swaps, chunk):
        shape = len(sizes), min(chunk, swaps - done)
        swapped = np.empty(shape, np.min_scalar_type(sizes.max()))
        for which, bits, kind in words:
            most = np.iinfo(kind).max
            mask = kind(most) >> (bits - sizes[which]).astype(kind)
            drawn = rng.integers(0, most, (len(which), shape[1]), kind, endpoint=True)
            swapped[which] = np.bitwise_count(drawn & mask[:, None])
        swapped[many] = rng.binomial(sizes[many, None], 0.5, (len(many), shape[1]))
        yield swapped


@dataclass(frozen=True)
class _Swapped(Statistics):
    """Statistics of the first model after r swaps, then of the second [2 r].

    Args:
        rows: stacked, the clusters of the first model before those of the second.
        weight: [kinds, r] how many patients of each kind are swapped.
        moves: what swapping a patient of each kind adds to the first model, by the counts or sums it is of.
    """

    moves: dict[int, csr_array]

    def _sum(self, values: np.ndarray) -> np.ndarray:
        first, second = np.split(values, 2)
        moved = (self._move(values, lambda: csr_array((second - first).T)) @ self.weight).T
        whole = self.rows.units[: len(first)]
        return np.concatenate([whole @ first + moved, whole @ second - moved])

    def _cumulated(self, counts: csr_array) -> np.ndarray:
        kinds = len(self.weight)
        whole = np.split(self.rows.units, 2)
        first, second = (counts @ np.concatenate(pair) for pair in ((whole[0], 0 * whole[1]), (0 * whole[0], whole[1])))
        moves = self._move(counts, lambda: (counts[:, kinds:] - counts[:, :kinds]).astype(np.int32))
        moved = (moves @ self.weight).T
        return np.cumsum(np.concatenate([first + moved, second - moved]), axis=1)

    def _move(self, values: np.ndarray | csr_array, make: Callable[[], csr_array]) -> csr_array:
        """Return the moves of values that the rows keep, made once."""
        if id(values) not in self.moves:
            self.moves[id(values)] = make()
        return self.moves[id(values)]


def _differences(view: _View, rows: Rows, swapped: np.ndarray, moves: dict[int, csr_array]) -> dict[str, np.ndarray]:
    """Return the metrics of the first model less those of the second [r] after swaps [kinds, r]."""
    found, swaps = view.metrics(_Swapped(rows, swapped, moves)), swapped.shape[1]
    return {key: value[:swaps] - value[swaps:] for key, value in found.items()}
