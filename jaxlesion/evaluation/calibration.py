"""Probabilities that mean something on all rows: the prior put right, one temperature, and how well they hold.

A network is trained on all malignant rows and on a draw of the benign ones, malignant rows weighing
`pos_weight` in the loss. What that does to its probabilities is known, and undone per fold:

- The draw keeps every malignant row and a benign one with the chance r, whatever its image x. By Bayes'
  rule the odds among kept rows are p(x|1) p(1) / (p(x|0) p(0) r): 1 / r times the odds among all rows.
- The weighted cross-entropy -[w y log q + (1 - y) log(1 - q)] is least, on average, where q / (1 - q) is
  w times the odds of y = 1.

Together, log odds among all rows = logit + log r - log w. With w = 1 this is the prior correction of King
and Zeng (2001), "Logistic Regression in Rare Events Data", Political Analysis 9, eq. 7, where all events
are kept. "All rows" are the run's own: another population has another prior.

What remains, over- or underconfidence, is taken out by one temperature T > 0 for all folds: sigmoid(z / T)
of the corrected log odds z, T at the least log loss (Guo et al. 2017, "On Calibration of Modern Neural
Networks"). Both steps rise with the logit: within a fold no ranking changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.core import config as configuration
from jaxlesion.core.errors import InputError

# A float32 sigmoid is 0 below a logit of about -88 and 1 above 17; the ends get finite log odds beyond all others.
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), 1 - 2.0**-25
MAX_TEMPERATURE = 100.0  # 1 / T stays in [1/100, 100]: perfectly separated or reversed rows have no finite optimum
Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class FoldCalibration:
    """What calibrates one fold."""

    fold: int
    """The fold that was held out."""
    model: str
    """Name of the checkpoint whose predictions were calibrated, such as fold_0/480."""
    negatives: int
    """Benign rows that could have been trained on: those outside the fold."""
    negatives_kept: int
    """Benign rows that were trained on."""
    offset: float
    """What is added to the logit."""
    rows: int
    """Rows that were held out."""
    positives: int
    """Malignant ones among them."""
    temperature: float | None
    """Fitted on the other folds, for figures on this one; None where there is no other."""


@dataclass(frozen=True)
class Calibration:
    """What a run stores in calibration.json."""

    temperature: float
    """Fitted on the held-out rows of all folds below, for rows that none of them has seen."""
    folds: tuple[FoldCalibration, ...]
    """The finished folds, ascending."""

    def check(self, models: Sequence[str]) -> None:
        """Raise InputError for a checkpoint that is none of those calibrated."""
        known = [fold.model for fold in self.folds]
        if unknown := [model for model in models if model not in known]:
            raise InputError(
                f"calibration.json was fitted on {' '.join(known)}, not on {unknown[0]}: "
                "use --checkpoint last, or bring it up to date by train --resume"
            )

    def new_rows(self, prediction: np.ndarray, models: Sequence[str]) -> np.ndarray:
        """The calibrated probability of rows that no fold was trained on: the mean of the folds' own.

        Probabilities are averaged, not logits. Of calibrated probabilities the mean is right on average, so
        that they add up to the number of malignant rows; a mean of logits (a geometric mean, of odds) is
        below it wherever folds disagree, and far below it where malignant rows are rare. For the same reason
        the temperature comes before the mean: it was fitted on single folds, which are what it makes right.

        Args:
            prediction: [n, k] uncorrected sigmoid of each of k checkpoints.
            models: [k] their names.

        Raises:
            InputError: a checkpoint that is none of those calibrated.
        """
        self.check(models)
        offset = {fold.model: fold.offset for fold in self.folds}
        return calibrate(prediction, np.array([[offset[model] for model in models]]), self.temperature).mean(1)

    def out_of_fold(self, prediction: ArrayLike, fold: ArrayLike) -> np.ndarray:
        """The calibrated probability [n] of held-out rows, with no figure on a row that it was fitted on.

        A fold's offset depends on its training rows, its temperature on the other folds alone. Where there is
        no other fold, only the prior is corrected.

        Args:
            prediction: [n] uncorrected sigmoid.
            fold: [n] the fold that held the row out.

        Raises:
            InputError: a fold that is not calibrated.
        """
        known = {fold.fold: (fold.offset, fold.temperature or 1.0) for fold in self.folds}
        folds, which = np.unique(np.asarray(fold, np.int64), return_inverse=True)
        if unknown := set(folds.tolist()) - set(known):
            raise InputError(f"calibration.json lacks fold {min(unknown)}: bring it up to date by train --resume")
        offset, temperature = np.array([known[k] for k in folds.tolist()]).reshape(-1, 2)[which].T
        return calibrate(prediction, offset, temperature)


def from_dict(data: Any, source: str) -> Calibration:
    """The inverse of `dataclasses.asdict`.

    Raises:
        InputError: something is missing, superfluous or no finite number, naming the file `source`.
    """
    try:
        folds = tuple(configuration.from_dict(fold, source, FoldCalibration) for fold in data["folds"])
        found = Calibration(float(data["temperature"]), folds)
        numbers = [found.temperature, *(f.offset for f in folds), *(f.temperature or 1.0 for f in folds)]
    except (KeyError, TypeError, ValueError):
        numbers = []
    if len(numbers) < 3 or not np.isfinite(numbers).all() or found.temperature <= 0:
        raise InputError(f"{source}: is damaged; remove it and write it anew by train --resume")
    return found


def prior_offset(negatives_kept: int, negatives: int, pos_weight: float = 1.0) -> float:
    """log(kept / all) - log(pos_weight), which turns a logit into log odds among all rows; derived above.

    Raises:
        InputError: counts or a weight that no training has.
    """
    if not (0 < negatives_kept <= negatives and pos_weight > 0):
        raise InputError(
            f"no prior can be corrected for {negatives_kept} of {negatives} negatives and weight {pos_weight}: "
            "give 1 or more of them, and a weight above 0"
        )
    return float(np.log(negatives_kept / negatives) - np.log(pos_weight))


def logit(prediction: ArrayLike) -> np.ndarray:
    """log(p / (1 - p)) in float64, finite also for 0 and 1."""
    p = np.clip(np.asarray(prediction, np.float64), SMALLEST, LARGEST)
    return np.log(p) - np.log1p(-p)


def sigmoid(z: ArrayLike) -> np.ndarray:
    """1 / (1 + exp(-z)) in float64, without overflow."""
    return np.exp(-np.logaddexp(0, -np.asarray(z, np.float64)))


def calibrate(prediction: ArrayLike, offset: ArrayLike, temperature: ArrayLike) -> np.ndarray:
    """sigmoid((logit + offset) / temperature) of an uncorrected sigmoid; the three are broadcast."""
    return sigmoid((logit(prediction) + offset) / temperature)


def fit_temperature(target: ArrayLike, z: ArrayLike) -> float:
    """The T in [1/100, 100] at which sigmoid(z / T) has the least log loss.

    The loss is convex in 1 / T; Newton's method on it, within a bracket that shrinks at every step.

    Args:
        target: [n] 0 or 1.
        z: [n] corrected log odds.

    Raises:
        InputError: one class only.
    """
    y, z = np.asarray(target, np.float64), np.asarray(z, np.float64)
    if not 0 < y.sum() < len(y):
        raise InputError(f"no temperature can be fitted: {y.sum():.0f} of {len(y)} rows are malignant; give both kinds")
    low, high, inverse = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE, 1.0
    for _ in range(100):  # ten are usual
        p = sigmoid(inverse * z)
        slope, curvature = np.mean((p - y) * z), np.mean(p * (1 - p) * z**2)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        newton = inverse - slope / max(curvature, np.finfo(np.float64).tiny)
        before, inverse = inverse, newton if low <= newton <= high else np.sqrt(low * high)
        if abs(inverse - before) <= 1e-12 * inverse:
            break
    return float(1 / inverse)


def fit(
    target: np.ndarray,
    prediction: np.ndarray,
    fold: np.ndarray,
    models: Mapping[int, str],
    negatives: Mapping[int, tuple[int, int]],
    pos_weight: float,
) -> Calibration:
    """Offsets and temperatures of a run's finished folds.

    Args:
        target: [n] 0 or 1, of the held-out rows of those folds.
        prediction: [n] uncorrected sigmoid.
        fold: [n] the fold that held the row out.
        models: by fold, the name of the checkpoint that predicted.
        negatives: by fold, how many benign rows were trained on, and of how many.
        pos_weight: weight of the positives in the loss.

    Raises:
        InputError: one class only.
    """
    folds = np.unique(fold).tolist()
    offset = {k: prior_offset(*negatives[k], pos_weight) for k in folds}
    z = logit(prediction)
    for k in folds:
        z[fold == k] += offset[k]
    each = tuple(
        FoldCalibration(
            fold=k,
            model=models[k],
            negatives=negatives[k][1],
            negatives_kept=negatives[k][0],
            offset=offset[k],
            rows=int(np.sum(fold == k)),
            positives=int(np.sum(target[fold == k])),
            temperature=fit_temperature(target[fold != k], z[fold != k]) if len(folds) > 1 else None,
        )
        for k in folds
    )
    return Calibration(fit_temperature(target, z), each)


class Reliability(NamedTuple):
    """A reliability diagram: predicted against observed shares in bins, each [bins] but `edges` [bins + 1]."""

    edges: np.ndarray
    """Bin i holds edges[i] < prediction <= edges[i + 1]; the first also its lower edge."""
    mean_prediction: np.ndarray
    observed: np.ndarray
    """Share of malignant rows."""
    count: np.ndarray
    low: np.ndarray
    """95 % interval of `observed`, by Wilson, as if rows were independent."""
    high: np.ndarray


def reliability(
    target: ArrayLike, prediction: ArrayLike, bins: int = 10, equal: Literal["mass", "width"] = "mass"
) -> Reliability:
    """Predicted and observed shares of malignant rows in bins.

    Bins of equal mass hold equally many rows, which is what rare malignant rows need: of bins of equal width
    over [0, 1] the first would hold nearly all. Equal predictions are never in two bins, so that there may be
    fewer than `bins`. In an empty bin of equal width all but the count is nan.

    Args:
        target: [n] 0 or 1.
        prediction: [n] in [0, 1].
        bins: how many, at most.
        equal: what they have in common.

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
    return Reliability(edges, total / some, hits / some, count, *wilson(hits, count))


def wilson(hits: ArrayLike, count: ArrayLike, z: float = Z_95) -> tuple[np.ndarray, np.ndarray]:
    """The score interval of a share (Wilson 1927, JASA 22), lower and upper end; nan where `count` is 0."""
    n = np.where(np.asarray(count) > 0, count, np.nan).astype(np.float64)
    share = np.asarray(hits, np.float64) / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)
