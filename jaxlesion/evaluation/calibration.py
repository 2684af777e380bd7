"""Calibrated probabilities on all rows: a prior correction for each fold, then intercept and slope.

A network is trained on all malignant rows and on a sample of the benign ones, malignant rows weighing
`pos_weight` in the loss. The effect on its probabilities is known, and undone per fold:

- The sample keeps every malignant row and a benign one with the chance r, whatever its image x. By Bayes'
  rule the odds among kept rows are p(x|1) p(1) / (p(x|0) p(0) r): 1 / r times the odds among all rows.
- The weighted cross-entropy -[w y log q + (1 - y) log(1 - q)] is least, on average, where q / (1 - q) is
  w times the odds of y = 1.

Together, log odds among all rows = logit + log r - log w. With w = 1 this is the prior correction of King
and Zeng (2001), "Logistic Regression in Rare Events Data", Political Analysis 9, eq. 7, where all events
are kept. "All rows" are the run's own: another population has another prior.

What remains is over- or underconfidence, and it pivots where the training rows are, not where all rows are: of
a network 1.6 times too sure the corrected log odds are z = 1.6 (log odds) + 0.6 log(w / r), several units off where
few benign rows were kept. A temperature, sigmoid(z / T), cannot move that pivot. A line can: the calibrated log
odds are a + b z, by logistic regression on out-of-fold rows (Cox 1958, "Two Further Applications of a Model for
Binary Regression", Biometrika 45; Platt 1999). With few malignant rows, or where the slope is not above 0, a alone is
fitted and b is 1. b is above 0: within a fold no ranking changes.

Rankings across folds do change. A fold's line is fitted on the others, whose share of malignant rows is low where its
own is high: never rank several folds together by calibrated predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from jaxlesion.core import fields
from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.logistic import fit_logistic

# A float32 sigmoid is 0 below a logit of about -88 and 1 above 17; both ends get finite log odds beyond all others.
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), 1 - 2.0**-25
MIN_POSITIVES = 20  # malignant rows that a slope is fitted on


class Line(NamedTuple):
    """Calibrated log odds a + b z of corrected log odds z."""

    a: float
    b: float
    slope_fixed: str | None = None
    """Why b is 1 and was not fitted."""


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
    a: float | None = None
    """Intercept, fitted on the other folds, for metrics on this one; None where there is no other."""
    b: float | None = None
    """Slope, as `a`."""
    slope_fixed: str | None = None
    """Why the slope is 1 and was not fitted."""


@dataclass(frozen=True)
class AllRowsCalibration:
    """The prior correction of the model of all rows; it held no rows out, so its line is the folds'."""

    model: str
    """Name of the checkpoint, such as fold_none/600."""
    negatives: int
    """Benign rows of the run."""
    negatives_kept: int
    """Benign rows that were trained on."""
    offset: float
    """Added to the logit."""


@dataclass(frozen=True)
class Calibration:
    """The content of a run's calibration.json."""

    a: float
    """Intercept, fitted on the held-out rows of all folds below, for rows that none of them has seen."""
    b: float
    """Slope, as `a`."""
    slope_fixed: str | None
    """Why the slope is 1 and was not fitted."""
    folds: tuple[FoldCalibration, ...]
    """The finished folds, ascending."""
    all_rows: AllRowsCalibration | None = None
    """Of the model of all rows, where it is finished."""

    @property
    def prevalence(self) -> float:
        """Share of malignant rows that calibrated predictions add up to."""
        return sum(fold.positives for fold in self.folds) / sum(fold.rows for fold in self.folds)

    @property
    def cross_fitted(self) -> bool:
        """Return whether each fold has a line that was fitted on other folds."""
        return self.folds[0].a is not None

    def check(self, models: Sequence[str]) -> None:
        """Raise InputError for a checkpoint that is none of those calibrated."""
        known = self.known
        if unknown := [model for model in models if model not in known]:
            raise InputError(
                f"calibration.json was fitted on {' '.join(known)}, not on {unknown[0]}: "
                "use --checkpoint last, or bring it up to date by train --resume"
            )

    def notes(self) -> list[str]:
        """Return sentences on folds whose slope was not fitted, or that have no line, if there are some."""
        fixed = [(f"fold {fold.fold}", fold.slope_fixed) for fold in self.folds]
        said = [f"{name} ({why})" for name, why in [*fixed, ("new rows", self.slope_fixed)] if why]
        notes = [f"calibrated by an intercept alone, without a slope: {', '.join(said)}"] if said else []
        if not self.cross_fitted:
            notes.append("out of fold only the prior is corrected: intercept and slope take other folds")
        return notes

    def new_rows(self, prediction: np.ndarray, models: Sequence[str]) -> np.ndarray:
        """Return the calibrated probability [n] of rows that no model was trained on: the mean of the models' own.

        Probabilities are averaged, not logits. Of calibrated probabilities the mean is right on average, so
        that they add up to the number of malignant rows. A mean of logits (a geometric mean, of odds) is
        below it wherever folds disagree, and far below it where malignant rows are rare. For the same reason
        the line comes before the mean: it was fitted on single folds.

        Args:
            prediction: [n, k] uncorrected sigmoid of each of k checkpoints.
            models: [k] their names.

        Raises:
            InputError: a checkpoint that is none of those calibrated.
        """
        self.check(models)
        return calibrate(prediction, self.offsets(models)[None], self.a, self.b).mean(1)

    @property
    def known(self) -> list[str]:
        """Return the names of the calibrated checkpoints."""
        return [*self._offsets()]

    def offsets(self, models: Sequence[str]) -> np.ndarray:
        """Return what is added to the logit of each of k checkpoints [k], by their names."""
        offset = self._offsets()
        return np.array([offset[model] for model in models])

    def _offsets(self) -> dict[str, float]:
        """Return the offset of each calibrated checkpoint, by its name."""
        return {each.model: each.offset for each in (*self.folds, *([self.all_rows] if self.all_rows else []))}

    def out_of_fold(self, prediction: ArrayLike, fold: ArrayLike) -> np.ndarray:
        """Return the calibrated probability [n] of held-out rows, of each row by parameters fitted on other folds.

        A fold's offset depends on its training rows, its line on the other folds alone. Where there is no other
        fold, only the prior is corrected.

        Args:
            prediction: [n] uncorrected sigmoid.
            fold: [n] the fold that held the row out.

        Raises:
            InputError: a fold that is not calibrated.
        """
        known = {f.fold: (f.offset, *((0.0, 1.0) if f.a is None else (f.a, f.b))) for f in self.folds}
        folds, which = np.unique(np.asarray(fold, np.int64), return_inverse=True)
        if unknown := set(folds.tolist()) - set(known):
            raise InputError(f"calibration.json lacks fold {min(unknown)}: bring it up to date by train --resume")
        return calibrate(prediction, *np.array([known[k] for k in folds.tolist()]).reshape(-1, 3)[which].T)


def from_dict(data: Any, source: str) -> Calibration:
    """Return what `dataclasses.asdict` was given.

    Raises:
        InputError: something is missing, superfluous or not a finite number, or it is of a version that fitted a
            temperature; the message names the file `source`.
    """
    if isinstance(data, dict) and "temperature" in data and "a" not in data:
        raise InputError(
            f"{source}: holds a temperature, as earlier versions fitted it; fit intercept and slope to oof.csv by "
            "train --resume"
        )
    try:
        folds = tuple(fields.from_dict(fold, source, FoldCalibration) for fold in data["folds"])
        rest = data.get("all_rows")  # earlier versions had none
        all_rows = None if rest is None else fields.from_dict(rest, source, AllRowsCalibration)
        found = Calibration(float(data["a"]), float(data["b"]), data["slope_fixed"], folds, all_rows)
        lines = [(found.a, found.b), *((f.a, f.b) for f in folds if not f.a is f.b is None)]
        good = np.isfinite([*np.ravel(lines), *found._offsets().values()]).all() and all(b > 0 for _, b in lines)
        damaged = not (good and folds and isinstance(found.slope_fixed, str | None))
    except (KeyError, TypeError, ValueError):
        damaged = True
    if damaged:
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


def calibrate(prediction: ArrayLike, offset: ArrayLike, a: ArrayLike = 0.0, b: ArrayLike = 1.0) -> np.ndarray:
    """Return sigmoid(a + b (logit + offset)) of an uncorrected sigmoid; the four are broadcast."""
    return special.expit(a + b * (logit(prediction) + offset))


def fit_line(target: ArrayLike, z: ArrayLike) -> Line:
    """Return the line of the least log loss of sigmoid(a + b z).

    The slope is 1, and says why, for fewer than 20 malignant rows, rows that z separates, and a slope not above 0.

    Args:
        target: [n] 0 or 1.
        z: [n] corrected log odds.

    Raises:
        InputError: one class only.
    """
    y, z = np.asarray(target, np.float64), np.asarray(z, np.float64)
    if not 0 < (positives := y.sum()) < len(y):
        raise InputError(f"no line can be fitted: {positives:.0f} of {len(y)} rows are malignant; give both kinds")
    if positives < MIN_POSITIVES:
        return Line(_intercept(y, z), 1.0, f"{positives:.0f} malignant rows, fewer than {MIN_POSITIVES}")
    malignant, benign = z[y == 1], z[y == 0]
    if malignant.min() >= benign.max() and z.min() < z.max():
        return Line(_intercept(y, z), 1.0, "no benign row above a malignant one")
    found = fit_logistic(np.column_stack([np.ones(len(z)), z]), y)
    if found is None or not found[1] > 0:
        return Line(_intercept(y, z), 1.0, "no slope above 0")
    return Line(float(found[0]), float(found[1]))


def _intercept(y: np.ndarray, z: np.ndarray) -> float:
    """Return the a at which sigmoid(a + z) adds up to the malignant rows."""
    found = fit_logistic(np.ones((len(z), 1)), y, z)
    if found is not None:
        return float(found[0])
    low, high = logit(y.mean()) - z.max(), logit(y.mean()) - z.min()  # the sum is too low at one and too high at other
    return float(optimize.brentq(lambda a: float(np.mean(special.expit(a + z) - y)), low, high, xtol=1e-13))


def fit(
    target: np.ndarray,
    prediction: np.ndarray,
    fold: np.ndarray,
    models: Mapping[int, str],
    negatives: Mapping[int, tuple[int, int]],
    pos_weight: float,
) -> Calibration:
    """Fit offsets and lines of a run's finished folds.

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
    single = len(folds) == 1
    lines = {k: {} if single else fit_line(target[fold != k], z[fold != k])._asdict() for k in folds}
    each = tuple(
        FoldCalibration(
            fold=k,
            model=models[k],
            negatives=negatives[k][1],
            negatives_kept=negatives[k][0],
            offset=offset[k],
            rows=int(np.sum(fold == k)),
            positives=int(np.sum(target[fold == k])),
            **lines[k],
        )
        for k in folds
    )
    return Calibration(*fit_line(target, z), each)
