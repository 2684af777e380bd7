"""Patient-level metrics against their definitions, and the tables that have none."""

import numpy as np
import pandas as pd
import pytest

from jaxlesion.evaluation.patients import auc_within, froc, patient_calls, why_unknown


def draw(seed: int = 0, rows: int = 200, patients: int = 12) -> tuple[np.ndarray, ...]:
    """Return target, prediction with ties, and patient."""
    rng = np.random.default_rng(seed)
    patient = np.append(np.arange(patients), rng.integers(patients, size=rows - patients))
    target = (rng.random(rows) < 0.1).astype(int)
    return target, np.round(rng.random(rows) + 0.2 * target, 1), patient


@pytest.mark.parametrize("seed", range(4))
def test_a_patient_is_called_if_any_lesion_is(seed):
    target, prediction, patient = draw(seed)
    found = patient_calls(target, prediction >= 0.9, patient)
    for k in range(12):
        assert found.malignant[k] == any(target[patient == k])
        assert found.called[k] == any(prediction[patient == k] >= 0.9)


@pytest.mark.parametrize("seed", range(4))
def test_points_of_the_froc_are_the_best_thresholds_with_so_few_false_positives(seed):
    target, prediction, _ = draw(seed)
    allowed = (0, 0.5, 2, 100)
    thresholds = [*np.unique(prediction), np.inf]
    for most, found in zip(allowed, froc(target, prediction, 12, allowed), strict=True):
        best = [
            (prediction >= at)[target == 1].mean()
            for at in thresholds
            if (prediction >= at)[target == 0].sum() <= most * 12
        ]
        assert found == pytest.approx(max(best))


@pytest.mark.parametrize("seed", range(4))
def test_auc_within_patients_is_the_share_of_pairs_within_them(seed):
    target, prediction, patient = draw(seed)
    weighted, malignant = auc_within(target, prediction, patient)
    total, weight = 0.0, 0
    for k in range(12):
        bad, good = (prediction[(patient == k) & (target == y)] for y in (1, 0))
        if len(bad) and len(good):
            total += np.mean(bad[:, None] > good, axis=1).sum() + np.mean(bad[:, None] == good, axis=1).sum() / 2
            weight += len(bad)
    assert malignant.sum() == weight
    assert weighted.sum() == pytest.approx(total)


def table(patient, target) -> pd.DataFrame:
    ids = [f"L{i}" for i in range(len(target))]
    patient = [one or isic_id for one, isic_id in zip(patient, ids, strict=True)]
    return pd.DataFrame({"isic_id": ids, "patient_id": pd.array(patient, dtype="string"), "target": target})


def test_where_ids_tell_the_label_there_are_no_patient_level_figures():
    assert why_unknown(table(["a", "a", "b", "b"], [1, 0, 0, 1])) is None
    assert "tells the label" in why_unknown(table(["a", "a", None, None], [1, 1, 0, 0]))
    assert "100.0% of the malignant and 33.3% of the benign" in why_unknown(table(["a", "b", None, None], [1, 0, 0, 0]))
    assert why_unknown(table(["a", None] * 2, [1, 1, 0, 0])).endswith("50.0% of the benign rows only")
    assert why_unknown(table([None, None], [1, 0])) == "no patient is known"
    assert why_unknown(table(["a", "a"], [0, 0])) == "no lesion is malignant"
    assert why_unknown(table(["a", "b"], [0, 1])) == "no patient has two lesions"
    assert why_unknown(table(["a", "a"], [0, 1]).assign(patient_id=pd.NA)) == "no patient is known"
