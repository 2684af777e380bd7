"""Calibrated probabilities on all rows: a prior correction for each fold, and one temperature.

A network is trained on all malignant rows and on a sample of the benign ones, malignant rows weighing
`pos_weight` in the loss. The effect on its probabilities is known, and undone per fold:

- The sample keeps every malignant row and a benign one with the chance r, whatever its image x. By Bayes'
  rule the odds among kept rows are p(x|1) p(1) / (p(x|0) p(0) r): 1 / r times the odds among all rows.
- The weighted cross-entropy -[w y log q + (1 - y) log(1 - q)] is least, on average, where q / (1 - q) is
  w times the odds of y = 1.

Together, log odds among all rows = logit + log r - log w. With w = 1 this is the prior correction of King
and Zeng (2001), "Logistic Regression in Rare Events Data", Political Analysis 9, eq. 7, where all events
are kept. "All rows" are the run's own: another population has another prior.

Over- and underconfidence that remains is removed by one temperature T > 0 for all folds: sigmoid(z / T)
of the corrected log odds z, T at the least log loss (Guo et al. 2017, "On Calibration of Modern Neural
Networks"). Both steps rise with the logit: within a fold no ranking changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from jaxlesion.core import fields
from jaxlesion.core.errors import InputError

# A float32 sigmoid is 0 below a logit of about -88 and 1 above 17; both ends get finite log odds beyond all others.
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), 1 - 2.0**-25
MAX_TEMPERATURE = 100.0  # 1 / T stays in [1/100, 100]: perfectly separated or reversed rows have no finite optimum


@dataclass(frozen=True)
class FoldCalibration:
    """Parameters that calibrate one fold."""

    fold: int
    """The fold that was held out."""
    model: str
    """Name of the checkpoint whose predictions were calibrated, such as fold_0/480."""
    negatives: int
    """Benign rows that could have been trained on: those outside the fold."""
    negatives_kept: int
    """Benign rows that were trained on."""
    offset: float
    """Added to the logit."""
    rows: int
    """Rows that were held out."""
    positives: int
    """Malignant ones among them."""
    temperature: float | None
    """Fitted on the other folds, for metrics on this one; None where there is no other."""


@dataclass(frozen=True)
class Calibration:
    """The content of a run's calibration.json."""

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
        """Return the calibrated probability [n] of rows that no fold was trained on: the mean of the folds' own.

        Probabilities are averaged, not logits. Of calibrated probabilities the mean is right on average, so
        that they add up to the number of malignant rows. A mean of logits (a geometric mean, of odds) is
        below it wherever folds disagree, and far below it where malignant rows are rare. For the same reason
        the temperature comes before the mean: it was fitted on single folds.

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
        """Return the calibrated probability [n] of held-out rows, of each row by parameters fitted on other folds.

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
    """Return what `dataclasses.asdict` was given.

    Raises:
        InputError: something is missing, superfluous or not a finite number; the message names the file `source`.
    """
    try:
        folds = tuple(fields.from_dict(fold, source, FoldCalibration) for fold in data["folds"])
        found = Calibration(float(data["temperature"]), folds)
        numbers = [found.temperature, *(f.offset for f in folds), *(f.temperature or 1.0 for f in folds)]
    except (KeyError, TypeError, ValueError):
        numbers = []
    if len(numbers) < 3 or not np.isfinite(numbers).all() or found.temperature <= 0:
        raise InputError(f"{source}: is damaged; remove it and rebuild it by train --resume")
    return found


def prior_offset(negatives_kept: int, negatives: int, pos_weight: float = 1.0) -> float:
    """Return log(kept / all) - log(pos_weight), which turns a logit into log odds among all rows; derived above.

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
    """Return log(p / (1 - p)) in float64, finite also for 0 and 1."""
    return special.logit(np.clip(np.asarray(prediction, np.float64), SMALLEST, LARGEST))


def calibrate(prediction: ArrayLike, offset: ArrayLike, temperature: ArrayLike) -> np.ndarray:
    """Return sigmoid((logit + offset) / temperature) of an uncorrected sigmoid; the three are broadcast."""
    return special.expit((logit(prediction) + offset) / temperature)


def fit_temperature(target: ArrayLike, z: ArrayLike) -> float:
    """Return the T in [1/100, 100] at which sigmoid(z / T) has the least log loss; 1 if every z is 0.

    The loss is convex in 1 / T, so that its slope changes sign once. Without a change, T is the better end.

    Args:
        target: [n] 0 or 1.
        z: [n] corrected log odds.

    Raises:
        InputError: one class only.
    """
    y, z = np.asarray(target, np.float64), np.asarray(z, np.float64)
    if not 0 < y.sum() < len(y):
        raise InputError(f"no temperature can be fitted: {y.sum():.0f} of {len(y)} rows are malignant; give both kinds")
    if not z.any():
        return 1.0

    def slope(log_inverse: float) -> float:
        """Return the derivative of the loss in 1 / T, whose logarithm is given."""
        return float(np.mean((special.expit(np.exp(log_inverse) * z) - y) * z))

    end = np.log(MAX_TEMPERATURE)
    if slope(-end) >= 0:
        return MAX_TEMPERATURE
    if slope(end) <= 0:
        return 1 / MAX_TEMPERATURE
    return float(np.exp(-optimize.brentq(slope, -end, end, xtol=1e-13)))


def fit(
    target: np.ndarray,
    prediction: np.ndarray,
    fold: np.ndarray,
    models: Mapping[int, str],
    negatives: Mapping[int, tuple[int, int]],
    pos_weight: float,
) -> Calibration:
    """Fit offsets and temperatures of a run's finished folds.

    Args:
        target: [n] 0 or 1, of the held-out rows of those folds.
        prediction: [n] uncorrected sigmoid.
        fold: [n] the fold that held the row out.
        models: by fold, the name of the checkpoint that predicted.
        negatives: by fold, the number of benign rows that were trained on, and of those outside the fold.
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
