"""Decision curves, and calls at fixed sensitivity: the worth of calling lesions.

Most benign lesions of ISIC were never biopsied. A call is therefore a call, not a biopsy: the "number needed to biopsy"
is the number of calls per malignant lesion among them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlesion.evaluation.metrics import operating_points

THRESHOLDS = tuple(k / 1000 for k in range(1, 51))  # of the decision curve
SENSITIVITIES = (0.8, 0.9, 0.95)


class NetBenefit(NamedTuple):
    """Points of a decision curve, each [thresholds]."""

    threshold: np.ndarray
    model: np.ndarray
    """Net benefit of calling rows whose probability is at least the threshold, per row."""
    treat_all: np.ndarray
    """That of calling every row; calling none has 0."""
    avoided_per_1000: np.ndarray
    """Net calls that the model avoids per 1,000 rows, against calling all, with no more malignant rows missed."""


class Needed(NamedTuple):
    """Calls at a fixed sensitivity."""

    sensitivity: float
    """Attained, at least the wanted one."""
    number_needed: float
    """Calls per malignant lesion among them: 1 / PPV."""
    ppv: float
    calls_per_1000: float
    """Of 1,000 lesions."""
    calls_per_patient: float
    """nan where patients are unknown."""


def prevalence_weight(target: np.ndarray, prevalence: float | None) -> np.ndarray:
    """Return the weight [n] of rows: 1, and for benign ones what makes malignant ones so frequent; 1 for None."""
    if prevalence is None:
        return np.ones(len(target))
    malignant = int(target.sum())
    return np.where(target == 1, 1.0, malignant * (1 - prevalence) / prevalence / max(len(target) - malignant, 1))


def decision_curve(
    target: np.ndarray,
    prediction: np.ndarray,
    weight: np.ndarray | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> NetBenefit:
    """Return net benefits: (true positives - false positives t / (1 - t)) / rows at each threshold probability t.

    Vickers and Elkin 2006, "Decision curve analysis", Medical Decision Making 26. t / (1 - t) is what a false positive
    costs, if missing a malignant lesion costs 1. Interventions avoided are (model - treat all) (1 - t) / t per row.

    Args:
        target: [n] 0 or 1.
        prediction: [n] calibrated probability.
        weight: [n] of the rows; None for 1.
        thresholds: in (0, 1).
    """
    t = np.asarray(thresholds, np.float64)
    weight = np.ones(len(target)) if weight is None else weight
    order = np.argsort(prediction, kind="stable")
    w, y = weight[order], target[order]
    first = np.searchsorted(prediction[order], t, side="left")  # called from there on
    malignant, benign = (np.append(np.cumsum((w * part)[::-1])[::-1], 0.0) for part in (y, 1 - y))
    tp, fp = malignant[first], benign[first]
    total = malignant[0] + benign[0]
    share = malignant[0] / total
    odds = t / (1 - t)
    model, treat_all = (tp - fp * odds) / total, share - (1 - share) * odds
    avoided = (benign[0] - fp) - (malignant[0] - tp) / odds  # exactly 0 where all are called
    return NetBenefit(t, model, treat_all, 1000 * avoided / total)


def needed_at(
    target: np.ndarray,
    prediction: np.ndarray,
    sensitivity: float,
    prevalence: float | None = None,
    patients: int | None = None,
) -> Needed:
    """Return the calls at the highest threshold of at least a sensitivity, chosen on these very rows.

    At a stated prevalence benign calls are weighted, and a patient has as many lesions as in the table.

    Args:
        target: [n] 0 or 1, a malignant one at least.
        prediction: [n] on one scale.
        sensitivity: the least, in (0, 1].
        prevalence: of malignant rows; None for that of the table.
        patients: number of patients; None where they are unknown.
    """
    _, fp, tp = operating_points(target, prediction)
    at = int(np.argmax(tp / tp[-1] >= sensitivity))
    benign = prevalence_weight(target, prevalence)[target == 0]
    each = float(benign[0]) if len(benign) else 1.0
    calls, rows = tp[at] + each * fp[at], tp[-1] + each * fp[-1]
    per_row = float(calls / rows)
    per_patient = np.nan if patients is None else per_row * len(target) / patients
    return Needed(float(tp[at] / tp[-1]), float(calls / tp[at]), float(tp[at] / calls), 1000 * per_row, per_patient)
