"""Permutation test of two models on the same rows: p by swapping their predictions, patient by patient.

If two models are alike, each patient's predictions could as well have come from the other model (Bandos, Rockette and
Gur 2005, Statistics in Medicine 24). Raw predictions are not exchangeable where one model is surer than the other, so
that ranking metrics swap mid-ranks within the fold, metrics at a threshold swap the calls, and metrics of probabilities
swap calibrated ones, without which they have no p. p = (1 + b) / (1 + B), b of B swaps having a difference at
least as large as the observed one (Phipson and Smyth 2010). A swap in which a metric is undefined counts as such.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

from jaxlesion.evaluation import registry
from jaxlesion.evaluation.statistics import Rows, Statistics
from jaxlesion.evaluation.units import Units, gap, rounded, units_of

SWAPS = 10_000
ELEMENTS = 1 << 21  # float64 numbers in one array of a chunk of swaps
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
    views = _views(target, models)
    units = _units(target, patient, views)
    stacked = {name: _stacked(target, view, units) for name, view in views.items()}
    observed = _differences(stacked, np.zeros((1, len(units.sizes))))
    least = {key: abs(value[0]) - ALIKE for key, value in observed.items()}
    larger = dict.fromkeys(observed, 0)
    chunk = max(1, ELEMENTS // max(2 * rows.width for rows in stacked.values()))
    for swapped in _swaps(units, swaps, chunk, seed):
        for key, value in _differences(stacked, swapped).items():
            larger[key] += int(np.count_nonzero(~(np.abs(value) < least[key])))
        tick(len(swapped))
    return {key: np.nan if np.isnan(observed[key][0]) else (1 + count) / (1 + swaps) for key, count in larger.items()}


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
    thresholds: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] = ({}, {})
    means: bool = False


def _views(target: np.ndarray, models: tuple[Model, Model]) -> dict[str, _View]:
    """Return what ranking metrics, calls and probabilities are computed from."""
    predictions = tuple(model.prediction for model in models)
    probabilities = tuple(model.probability for model in models)
    views = {
        "ranks": _View(tuple(model.rank for model in models)),
        "calls": _View(predictions, tuple(model.thresholds for model in models)),
    }
    known = all(one is not None for one in probabilities)
    return views | ({"probabilities": _View(probabilities, means=True)} if known else {})


def _units(target: np.ndarray, patient: np.ndarray, views: Mapping[str, _View]) -> Units:
    """Return the kinds of patients that no metric of either model tells apart."""
    columns = [target]
    for name, view in views.items():
        for column, thresholds in zip(view.columns, view.thresholds, strict=True):
            if name == "ranks":
                levels = np.unique(np.concatenate([of[target == 1] for of in view.columns]))
                columns.append(gap(levels, column))
            columns += [column >= at for at in thresholds.values()]
            columns += rounded(target, column) if view.means else []
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
    """Yield how many patients of each kind are swapped [<= chunk, kinds]."""
    rng, alone = np.random.default_rng(seed), units.sizes == 1
    for done in range(0, swaps, chunk):
        swapped = np.empty((min(chunk, swaps - done), len(units.sizes)))
        swapped[:, alone] = rng.integers(2, size=(len(swapped), int(alone.sum())), dtype=np.int8)
        swapped[:, ~alone] = rng.binomial(units.sizes[~alone], 0.5, (len(swapped), int((~alone).sum())))
        yield swapped


@dataclass(frozen=True)
class _Swapped(Statistics):
    """Statistics of the first model after r swaps, then of the second [2 r].

    Args:
        rows: stacked, the clusters of the first model before those of the second.
        weight: [r, kinds] how many patients of each kind are swapped.
    """

    def _sum(self, values: np.ndarray) -> np.ndarray:
        first, second = np.split(values, 2)
        moved = self.weight @ (second - first)
        whole = self.rows.units[: len(first)]
        return np.concatenate([whole @ first + moved, whole @ second - moved])

    def _cumulated(self, counts: csr_array) -> np.ndarray:
        kinds = self.weight.shape[1]
        first, second = counts[:, :kinds], counts[:, kinds:]
        moved = ((second - first) @ self.weight.T).T
        whole = self.rows.units[:kinds]
        return np.cumsum(np.concatenate([first @ whole + moved, second @ whole - moved]), axis=1)


def _differences(stacked: Mapping[str, Rows], swapped: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric of the first model less that of the second [r] after swaps [r, kinds]."""
    of = {name: _Swapped(rows, swapped) for name, rows in stacked.items()}
    found = {}
    for metric in registry.OF_PREDICTIONS:
        name = "ranks" if metric.of_order else "probabilities"
        if metric.interval and name in of:
            found[metric.key] = metric.formula(of[name])
    for prefix, confusion in of["calls"].confusions.items():
        found |= {prefix + key: rate for key, rate in registry.rates(*confusion[:4]).items()}
    return {key: value[: len(swapped)] - value[len(swapped) :] for key, value in found.items()}
