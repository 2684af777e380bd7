"""Patient-level metrics: whole patients called, false positives per patient, and ranking within patients.

They need the patient of every row. Where patients are known for malignant rows alone, an id tells the label, and what
is counted by patient is meaningless: `why_unknown` says so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.evaluation.metrics import operating_points, roc_auc
from jaxlesion.evaluation.retrieval import rows_of_patients

TELLING = 0.05  # difference of the shares of malignant and benign rows with a patient, from which an id tells the label
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # per patient, as LUNA16 reads its FROC curve


class Calls(NamedTuple):
    """Patients by whether they have a malignant lesion, and whether a lesion of theirs is called; each [patients]."""

    malignant: np.ndarray
    called: np.ndarray


def why_unknown(table: pd.DataFrame) -> str | None:
    """Return why a Predictions table has no patient-level metrics; None where it has.

    A patient is unknown where the cell is empty or repeats the isic_id.
    """
    known = (table["patient_id"].notna() & (table["patient_id"] != table["isic_id"])).to_numpy(bool, na_value=False)
    malignant = (table["target"] == 1).to_numpy(bool)
    if not known.any():
        return "no patient is known"
    if not malignant.any():
        return "no lesion is malignant"
    if not known.all():
        of_malignant, of_benign = (
            known[rows].mean() if rows.any() else known.mean() for rows in (malignant, ~malignant)
        )
        why = f"patients are known for {of_malignant:.1%} of the malignant and {of_benign:.1%} of the benign rows only"
        return why + (", so that an id tells the label" if abs(of_malignant - of_benign) > TELLING else "")
    if not table["patient_id"].duplicated().any():
        return "no patient has two lesions"
    return None


def patient_calls(target: np.ndarray, called: np.ndarray, patient: np.ndarray) -> Calls:
    """Return which patients have a malignant lesion, and which are called: those with any called lesion.

    Args:
        target: [n] 0 or 1.
        called: [n] whether the lesion is called malignant.
        patient: [n] from 0, each number at least once.
    """
    return Calls(*(np.bincount(patient, column) > 0 for column in (target, called)))


def froc(
    target: np.ndarray, prediction: np.ndarray, patients: int, allowed: Sequence[float] = FALSE_POSITIVES
) -> list[float]:
    """Return the highest sensitivity over lesions with at most so many false positives per patient, for each number.

    These are points of the free-response ROC curve (Bunch et al. 1978; Setio et al. 2017, "LUNA16", Medical Image
    Analysis 42, for the seven numbers), benign lesions being the false positives.

    Args:
        target: [n] 0 or 1, a malignant one at least.
        prediction: [n] on one scale.
        patients: number of all patients.
        allowed: false positives per patient.
    """
    _, fp, tp = operating_points(target, prediction)
    return [float(tp[fp <= most * patients][-1] / tp[-1]) for most in allowed]


def auc_within(target: np.ndarray, prediction: np.ndarray, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return m AUC and m of each patient with both kinds of lesions, m the malignant ones.

    The sum of the first over the sum of the second is the AUC within patients: the chance that a malignant lesion is
    ranked above a benign one of the same patient, averaged over malignant lesions.
    """
    found = []
    for rows in rows_of_patients(patient, np.unique(patient[target == 1])):
        m = int(target[rows].sum())
        if m < len(rows):
            found.append((m * roc_auc(target[rows], prediction[rows]), m))
    weighted, malignant = np.array(found, np.float64).reshape(-1, 2).T
    return weighted, malignant
