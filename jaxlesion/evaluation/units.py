"""The units that resamples draw: patients, and rows whose patient has no other row.

Units whose rows are alike in every count a metric needs are one kind, and a resample draws the numbers of each kind by
one multinomial. A patient with several rows is a kind of his own. Single rows are alike where they have the same class
and the same calls, lie in the same gap between malignant predictions, and share the bins of their losses: at most
3 x malignant + 1 gaps, cut by the thresholds, the bins of calibration and the bins of the losses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlesion.evaluation.statistics import calibration_bin, losses

LOSS_BINS = 4096  # values that the loss of a single row is rounded to: a mean differs by less than 1 / 8,192 of a loss


@dataclass(frozen=True)
class Units:
    """Kinds of units.

    Args:
        kind: [n] of each row, from 0.
        sizes: [kinds] units of each kind.
    """

    kind: np.ndarray
    sizes: np.ndarray

    @property
    def number(self) -> int:
        """Number of units."""
        return int(self.sizes.sum())

    def malignant(self, target: np.ndarray) -> int:
        """Return the number of units with a malignant row."""
        return int(self.sizes[np.unique(self.kind[target == 1])].sum())


def units_of(patient: np.ndarray | None, columns: Sequence[np.ndarray]) -> Units:
    """Return the kinds of units, whose numbers depend on names and columns alone, not on the order of rows.

    Args:
        patient: [n] from 0; None for rows alone.
        columns: each [n]; single rows are alike where all of these are equal.
    """
    n = len(columns[0])
    patient = np.arange(n) if patient is None else patient
    rows = np.bincount(patient)
    single = rows[patient] == 1
    kind, sizes = np.empty(n, np.int64), np.empty(0, np.int64)
    if single.any():
        code = np.zeros(int(single.sum()), np.int64)
        for column in columns:
            value, inverse = np.unique(column[single], return_inverse=True)
            code = np.unique(code * len(value) + inverse, return_inverse=True)[1]
        kind[single], sizes = code, np.bincount(code)
    names, inverse = np.unique(patient[~single], return_inverse=True)
    kind[~single] = len(sizes) + inverse
    return Units(kind, np.concatenate([sizes, np.ones(len(names), np.int64)]))


def counted(target: np.ndarray, prediction: np.ndarray, thresholds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the columns [n] that counts depend on: class, gap between malignant predictions, and calls."""
    levels = np.unique(prediction[target == 1])
    return [target, gap(levels, prediction), *(prediction >= at for at in thresholds.values())]


def gap(levels: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return where each number [n] lies among rising levels: 0 below the first, 1 at it, 2 between it and the next."""
    return sum(np.searchsorted(levels, column, side) for side in ("left", "right"))


def rounded(target: np.ndarray, prediction: np.ndarray) -> list[np.ndarray]:
    """Return the columns [n] that means depend on: bins of calibration and of each loss."""
    bins = [np.floor(LOSS_BINS * loss / max(loss.max(), 1e-300)) for loss in losses(target, prediction)]
    return [calibration_bin(prediction), *bins]
