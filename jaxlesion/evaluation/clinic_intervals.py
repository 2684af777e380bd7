"""Intervals of FROC points, net benefit, calibration slope and ICI, from counts of resampled patients.

Each row lies in a cell: its class, and a bin of its prediction that the metric does not tell apart. A resample of
patients is then the number of rows in each cell, and thousands of them are one product of matrices. Bins are exact for
FROC and net benefit. For calibration they are `BINS` of equal width in log odds, each standing for its mean.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.special import expit

from jaxlesion.evaluation.bootstrap import ELEMENTS, Limits, draws
from jaxlesion.evaluation.calibration import logit
from jaxlesion.evaluation.calibration_metrics import KNOTS, restricted_cubic_spline
from jaxlesion.evaluation.intervals import FEWEST_MALIGNANT, at_edge, percentiles
from jaxlesion.evaluation.logistic import fit_logistic
from jaxlesion.evaluation.units import gap, units_of

BINS = 1024
STEPS, HALVINGS = 30, 8  # of Newton's method, from the fit of all rows
TOLERANCE = 5e-3  # in nats: a step that gains less was a tenth of a standard error, and the next is far smaller
RIDGE = 1e-12  # of the curvature's trace, so that it can be inverted; where the steps end does not depend on it
LARGEST_STEP = 20  # in log odds: a resample that is nearly separated would overshoot


def resampled_cells(patient: np.ndarray, cell: np.ndarray, cells: int, resamples: int, seed: int) -> np.ndarray:
    """Return the number of rows in each cell [resamples, cells], all patients being drawn together.

    Args:
        patient: [n] from 0.
        cell: [n] from 0 to `cells` - 1.
        cells: number of cells.
        resamples: number of resamples.
        seed: of them.
    """
    units = units_of(patient, [cell])
    rows = coo_array((np.ones(len(cell)), (cell, units.kind)), shape=(cells, len(units.sizes))).tocsr()
    rows.data /= units.sizes[rows.indices]
    chunk = max(1, ELEMENTS // len(units.sizes))
    return np.concatenate([(rows @ weight.T).T for weight in draws(units, resamples, chunk, seed)])


def malignant_units(target: np.ndarray, patient: np.ndarray) -> int:
    """Return the number of patients with a malignant row."""
    return len(np.unique(patient[target == 1]))


def froc_limits(
    target: np.ndarray,
    prediction: np.ndarray,
    patient: np.ndarray,
    allowed: Sequence[float],
    values: Sequence[float],
    resamples: int,
    seed: int = 0,
) -> list[Limits | None]:
    """Return the 95 % intervals of the sensitivities of `patients.froc`; None below 10 malignant patients.

    Args:
        target: [n] 0 or 1.
        prediction: [n] on one scale.
        patient: [n] from 0.
        allowed: false positives per patient.
        values: the sensitivities.
        resamples: number of resamples; 0 for no intervals.
        seed: of them.
    """
    units = malignant_units(target, patient)
    if not resamples or units < FEWEST_MALIGNANT:
        return [None] * len(allowed)
    levels = np.unique(prediction[target == 1])
    bins = 2 * len(levels) + 1
    counts = resampled_cells(patient, target * bins + gap(levels, prediction), 2 * bins, resamples, seed)
    above = [np.cumsum(part[:, ::-1], axis=1)[:, ::-1][:, 1::2] for part in np.split(counts, 2, axis=1)]
    fp, tp = above  # at or above each level
    positives = np.maximum(tp[:, :1], 1)
    number = int(patient.max()) + 1
    found = []
    for most, value in zip(allowed, values, strict=True):
        sample = (np.where(fp <= most * number, tp, 0).max(1, keepdims=True) / positives)[:, 0]
        found.append(at_edge(value, 1.0, units) or percentiles(np.where(tp[:, 0] > 0, sample, np.nan), units))
    return found


def benefit_limits(
    target: np.ndarray,
    probability: np.ndarray,
    patient: np.ndarray,
    thresholds: Sequence[float],
    prevalence: float | None,
    resamples: int,
    seed: int = 0,
) -> list[Limits | None]:
    """Return the 95 % intervals of the net benefit at each threshold; None below 10 malignant patients.

    Args:
        target: [n] 0 or 1.
        probability: [n] calibrated.
        patient: [n] from 0.
        thresholds: rising, in (0, 1).
        prevalence: stated share of malignant rows; None for that of each resample.
        resamples: number of resamples; 0 for no intervals.
        seed: of them.
    """
    units = malignant_units(target, patient)
    if not resamples or units < FEWEST_MALIGNANT:
        return [None] * len(thresholds)
    t, bins = np.asarray(thresholds, np.float64), len(thresholds) + 1
    cell = target * bins + np.searchsorted(t, probability, side="right")
    counts = resampled_cells(patient, cell, 2 * bins, resamples, seed)
    called = [np.cumsum(part[:, ::-1], axis=1)[:, ::-1] for part in np.split(counts, 2, axis=1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        fpr, tpr = (part[:, 1:] / part[:, :1] for part in called)
        benign, malignant = (part[:, :1] for part in called)
        share = malignant / (malignant + benign) if prevalence is None else prevalence
        samples = share * tpr - (1 - share) * fpr * t / (1 - t)
    return [percentiles(sample, units) for sample in samples.T]


def calibration_limits(
    target: np.ndarray,
    probability: np.ndarray,
    weight: np.ndarray,
    patient: np.ndarray,
    resamples: int,
    seed: int = 0,
) -> dict[str, Limits | None]:
    """Return the 95 % intervals of `slope` and `ici`; None below 10 malignant patients, or where no fit is found.

    Args:
        target: [n] 0 or 1.
        probability: [n].
        weight: [n] of the rows, the same for all of a class.
        patient: [n] from 0.
        resamples: number of resamples; 0 for no intervals.
        seed: of them.
    """
    units, z = malignant_units(target, patient), logit(probability)
    if not resamples or units < FEWEST_MALIGNANT or not np.ptp(z):
        return {"slope": None, "ici": None}
    which = np.unique(np.floor((BINS - 1) * (z - z.min()) / np.ptp(z)), return_inverse=True)[1]
    bins = int(which.max()) + 1
    counts = resampled_cells(patient, target * bins + which, 2 * bins, resamples, seed)
    benign, malignant = (part * weight[target == of][:1] for of, part in enumerate(np.split(counts, 2, axis=1)))
    each = np.bincount(which, weights=weight)
    mean, share = (np.bincount(which, weight * column) / each for column in (z, probability))
    spline = restricted_cubic_spline(mean, np.unique(np.quantile(z, KNOTS)))
    line, curve = (np.column_stack([np.ones(bins), part]) for part in (mean, spline))
    whole = np.bincount(which, weight * target), each
    slope = _fits(line, whole, malignant, malignant + benign)[:, 1]
    smooth = expit(_fits(curve, whole, malignant, malignant + benign) @ curve.T)
    ici = ((malignant + benign) * np.abs(share - smooth)).sum(1) / (malignant + benign).sum(1)
    return {"slope": percentiles(slope, units), "ici": percentiles(ici, units)}


def _fits(
    design: np.ndarray, whole: tuple[np.ndarray, np.ndarray], malignant: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the coefficients [resamples, p] of logistic regressions of counts in bins; nan where none is found.

    Newton's method ends where the loss hardly falls: the curve of a resample without a malignant row in a tail has a
    limit there, 0, although its coefficients have none.

    Args:
        design: [bins, p].
        whole: malignant and all rows of the table [bins], whose fit is where all others start.
        malignant: [resamples, bins].
        rows: [resamples, bins].
    """
    basis = np.linalg.inv(np.linalg.qr(design * np.sqrt(whole[1] / whole[1].sum())[:, None], mode="r"))
    x, p = design @ basis, design.shape[1]  # columns that are independent over all rows: splines nearly depend
    start = fit_logistic(x, whole[0] / whole[1], weight=whole[1])
    if start is None:
        return np.full((len(rows), p), np.nan)
    found, products = np.tile(start, (len(rows), 1)), (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    todo, loss = np.arange(len(rows)), _loss(start @ x.T, malignant, rows)
    for _ in range(STEPS):
        chance = expit(found[todo] @ x.T)
        slope = (malignant[todo] - rows[todo] * chance) @ x
        curvature = ((rows[todo] * chance * (1 - chance)) @ products).reshape(-1, p, p)
        trace = np.trace(curvature, axis1=1, axis2=2)[:, None, None]
        step = np.linalg.solve(curvature + (RIDGE * trace + 1e-300) * np.eye(p), slope[:, :, None])[:, :, 0]
        step *= np.minimum(1, LARGEST_STEP / np.maximum(np.abs(step @ x.T).max(1), 1e-300))[:, None]
        for _ in range(HALVINGS):
            after = _loss((found[todo] + step) @ x.T, malignant[todo], rows[todo])
            if not (worse := after > loss[todo] * (1 + 1e-12)).any():
                break
            step[worse] /= 2
        found[todo] += step
        gained, loss[todo] = loss[todo] - after, after
        todo = todo[gained > TOLERANCE]
        if not len(todo):
            break
    found[todo] = np.nan  # separated
    return found @ basis.T


def _loss(log_odds: np.ndarray, malignant: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the log loss [resamples] of counts in bins."""
    return (rows * np.logaddexp(0, log_odds) - malignant * log_odds).sum(1)
