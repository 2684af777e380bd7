"""Bootstrap of patients: intervals of metrics, for one set of predictions or for several of the same rows.

Lesions of one patient resemble each other, so whole patients are drawn, with replacement: as many as there are, all
together, so that the number of malignant patients varies as it would in another sample. Rows whose patient is unknown
are patients of their own. Drawing rows, or DeLong's formula, under-covers wherever patients have several lesions. In
2,000 simulated sets of 100 patients with 8 lesions each, half of the scores' variance was that of the patients.
Intervals of 500 resamples held the true AUC in 94.4 % of the sets by patient, and in 89.0 % by row.

A metric that is undefined in a resample is nan there. `intervals` makes limits of resamples, or of leaving
each unit out (`jackknife`); docs/trust.md has their simulated coverage. Thresholds are the same in every
resample.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation import registry
from jaxlesion.evaluation.columns import check_columns, check_probability
from jaxlesion.evaluation.intervals import LEVEL, Spread, limits, percentiles, resting_on
from jaxlesion.evaluation.jackknife import spreads
from jaxlesion.evaluation.registry import Basis
from jaxlesion.evaluation.statistics import Confusion, Rows
from jaxlesion.evaluation.units import Units, counted, rounded, units_of

RESAMPLES = 2000
ELEMENTS = 1 << 21  # float64 numbers in one array of a chunk of resamples: 16 MB, a few of them at once

Limits = tuple[float, float]
interval = percentiles


@dataclass(frozen=True)
class Scores:
    """Predictions [n] of some rows.

    Args:
        prediction: [n] in [0, 1].
        thresholds: by prefix of the metrics' keys a number, or one for each row.
        rank: [n] ranks within folds, for the metrics that take these; None for the predictions.
        probability: [n] calibrated, for the metrics of probabilities; None for the predictions.
    """

    prediction: ArrayLike
    thresholds: Mapping[str, ArrayLike] = field(default_factory=lambda: {"": 0.5})
    rank: ArrayLike | None = None
    probability: ArrayLike | None = None


class Support(NamedTuple):
    """Counts and errors that the interval of a metric needs besides resamples.

    Args:
        resting: by prefix of the metrics' keys the number of units, by what a metric may rest on.
        spreads: of the metrics whose interval is by leaving units out, by key.
    """

    resting: dict[str, dict[Basis, int]]
    spreads: dict[str, Spread]

    def of(self, key: str) -> dict[Basis, int]:
        """Return the numbers of units at the threshold of a metric, if it has one."""
        prefix = registry.CHOSEN if key.startswith(registry.CHOSEN) else ""
        return self.resting.get(prefix) or next(iter(self.resting.values()))


@dataclass(frozen=True)
class Resampled:
    """Metrics of resamples.

    Args:
        by: the unit that was drawn; `row` where no patient has two rows.
        clusters: numbers of units with a malignant row, and without.
        samples: for each of the scores, key of the metric -> [resamples] values, nan where undefined.
        support: for each of the scores, what intervals need besides.
    """

    by: Literal["patient", "row"]
    clusters: tuple[int, int]
    samples: tuple[dict[str, np.ndarray], ...]
    support: tuple[Support, ...]

    def limits(self, key: str, value: float, of: int = 0) -> Limits | None:
        """Return the 95 % interval of a metric of one of the scores, given its value; None where it is withheld."""
        return limits_of(key, value, self.samples[of][key], self.support[of])


def limits_of(key: str, value: float, sample: np.ndarray, support: Support) -> Limits | None:
    """Return the 95 % interval of a metric; None where it is withheld."""
    return limits(key, value, sample, support.of(key), support.spreads.get(key))


def resample(
    target: ArrayLike,
    scores: Sequence[Scores],
    patient: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int | Sequence[int] = 0,
    tick: Callable[[int], object] = lambda resamples: None,
) -> Resampled:
    """Compute every registered metric that has an interval on resamples, the same ones for all scores.

    No bit depends on the order of the rows. Each value is what the plain metric is of the rows drawn, to rounding;
    losses of rows without others of their patient are rounded (see `units`).

    Args:
        target: [n] 0 or 1.
        scores: one or more predictions of the same n rows.
        patient: [n] sortable names; None draws rows.
        resamples: number of resamples.
        seed: of the resamples.
        tick: called with the number of resamples just done.

    Raises:
        InputError: columns that `check_probability` refuses, or fewer than one resample.
    """
    if resamples < 1:
        raise InputError(f"{resamples} draws give no interval; draw some thousand")
    columns = [check_probability(target, one.prediction) for one in scores]
    target = columns[0][0]
    name = None if patient is None else np.unique(np.asarray(patient), return_inverse=True)[1]
    predictions = [prediction for _, prediction in columns]
    ranks = [None if one.rank is None else check_columns(target, one.rank)[1] for one in scores]
    probabilities = [
        None if one.probability is None else check_probability(target, one.probability)[1] for one in scores
    ]
    thresholds = [{k: np.broadcast_to(at, target.shape) for k, at in one.thresholds.items()} for one in scores]
    units = _units(target, name, predictions, ranks, thresholds, probabilities)
    condensed = [
        _Views(
            _rows(target, p, units, at),
            *(None if column is None else _rows(target, column, units, {}) for column in others),
        )
        for p, at, *others in zip(predictions, thresholds, ranks, probabilities, strict=True)
    ]
    chunk = max(1, ELEMENTS // max(views.width for views in condensed))
    parts: list[list[_Chunk]] = [[] for _ in scores]
    for weight in draws(units, resamples, chunk, seed):
        for part, views in zip(parts, condensed, strict=True):
            statistics, *others = (None if rows is None else rows.weighted(weight) for rows in views)
            part.append(_Chunk(registry.scores(statistics, *others), statistics.confusions))
        tick(len(weight))
    samples = tuple(_joined(part) for part in parts)
    if units.number == 1:
        samples = tuple({key: np.full(resamples, np.nan) for key in one} for one in samples)
    malignant = units.malignant(target)
    return Resampled(
        "row" if units.number == len(target) else "patient",
        (malignant, units.number - malignant),
        samples,
        tuple(_support(views) for views in condensed),
    )


def difference(a: np.ndarray, b: np.ndarray, units: float = math.inf, level: float = LEVEL) -> Limits | None:
    """Return the interval of a - b of one metric's paired [resamples]; None where over 5 % of them are undefined.

    `units` is the number that the metric rests on, which widens the tails; infinite for plain percentiles.
    """
    return percentiles(a - b, units, level)


class _Chunk(NamedTuple):
    """Metrics without a threshold, and the confusion at each threshold, of some resamples."""

    scores: dict[str, np.ndarray]
    confusions: dict[str, Confusion]


def _joined(chunks: Sequence[_Chunk]) -> dict[str, np.ndarray]:
    """Return all metrics of all resamples; rates are computed here, at once, since many cheap ones add up."""
    found = {key: np.concatenate([chunk.scores[key] for chunk in chunks]) for key in chunks[0].scores}
    for prefix in chunks[0].confusions:
        counts = (np.concatenate(count) for count in zip(*(c.confusions[prefix][:4] for c in chunks), strict=True))
        found |= {prefix + key: rate for key, rate in registry.rates(*counts).items()}
    return found


class _Views(NamedTuple):
    """Rows by prediction, by rank within the fold and by calibrated probability, where these differ."""

    rows: Rows
    ranked: Rows | None = None
    probable: Rows | None = None

    @property
    def width(self) -> int:
        """Numbers that one weighting needs in its largest array."""
        return max(rows.width for rows in self if rows is not None)


def _units(
    target: np.ndarray,
    name: np.ndarray | None,
    predictions: Sequence[np.ndarray],
    ranks: Sequence[np.ndarray | None],
    thresholds: Sequence[Mapping[str, np.ndarray]],
    probabilities: Sequence[np.ndarray | None],
) -> Units:
    """Return the kinds of units that are alike for all scores."""
    columns = [target]
    for prediction, rank, at, probability in zip(predictions, ranks, thresholds, probabilities, strict=True):
        columns += counted(target, prediction, at)
        columns += rounded(target, prediction if probability is None else probability)
        columns += [] if rank is None else counted(target, rank, {})
    return units_of(name, columns)


def _rows(target: np.ndarray, column: np.ndarray, units: Units, thresholds: Mapping[str, np.ndarray]) -> Rows:
    return Rows(target, column, units.kind, len(units.sizes), thresholds, units.sizes)


def _support(views: _Views) -> Support:
    """Return the numbers of units and the spreads of metrics of one of the scores."""
    resting = {prefix: resting_on(views.rows, prefix) for prefix in views.rows.thresholds}
    return Support(resting or {"": resting_on(views.rows)}, spreads(views.rows, views.ranked))


def draws(units: Units, resamples: int, chunk: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the units of each kind that are drawn, [<= chunk, kinds]; the numbers do not depend on `chunk`."""
    rng = np.random.default_rng(seed)
    share = units.sizes / units.number
    for done in range(0, resamples, chunk):
        yield rng.multinomial(units.number, share, min(chunk, resamples - done)).astype(np.float64)
