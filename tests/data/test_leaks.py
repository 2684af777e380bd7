"""A column that tells the label by itself is named, whether by its values or by being empty."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from jaxlesion.core.errors import InputError
from jaxlesion.data.leaks import refuse_telling_counts, telling_columns
from jaxlesion.data.tables import read_table


@pytest.fixture
def lesions() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    target = (rng.random(500) < 0.2).astype(int)
    return pd.DataFrame({"isic_id": [f"i{i}" for i in range(500)], "target": target, "size": rng.normal(target, 1.0)})


@pytest.mark.parametrize(
    "cells",
    [
        lambda target: -3.0 * target + 0.1 * np.arange(len(target)) / len(target),
        lambda target: np.where(target == 1, "excised", "in situ"),
        lambda target: np.where(target == 1, 1.5, np.nan),
        lambda target: np.where(target == 1, None, "kept"),
    ],
    ids=["a number, falling", "a text", "a number only where malignant", "a text only where benign"],
)
def test_a_column_that_tells_the_label_is_named(lesions, cells):
    lesions["hint"] = cells(lesions["target"].to_numpy())
    assert telling_columns(lesions) == {"hint": 1.0}


def test_a_good_measurement_is_not(lesions):
    assert telling_columns(lesions) == {}


def test_keys_label_side_and_free_text_are_passed_over(lesions):
    target = lesions["target"]
    lesions = lesions.assign(patient_id=target, iddx_full=target.astype(str), note=[f"note {i}" for i in range(500)])
    assert telling_columns(lesions) == {}


def test_one_class_has_none(lesions):
    assert telling_columns(lesions.assign(target=0, hint=1)) == {}


def test_the_area_is_scikit_learns(lesions):
    lesions["hint"] = lesions["target"] * 10 + lesions["size"].round(1)
    area = roc_auc_score(lesions["target"], lesions["hint"])
    assert telling_columns(lesions)["hint"] == pytest.approx(area, abs=1e-12)


def test_no_column_of_the_real_metadata_is_telling(real):
    path = real.with_name("slice3d_metadata") / "train-metadata.csv"
    assert telling_columns(read_table(path, ("isic_id", "target"))) == {}


@pytest.mark.parametrize("known", [0, 1], ids=["benign", "malignant"])
def test_patients_known_for_rows_of_one_label_are_refused(lesions, known):
    pairs = "P" + (lesions.groupby("target").cumcount() // 2).astype(str)
    patient = lesions["isic_id"].where(lesions["target"] != known, pairs)
    with pytest.raises(InputError, match=r"tells the label .* would see it; do this"):
        refuse_telling_counts(lesions.assign(patient_id=patient), "; do this")


def test_patients_known_for_all_rows_or_none_are_taken(lesions):
    refuse_telling_counts(lesions.assign(patient_id=[f"P{i // 5}" for i in range(500)]))
    refuse_telling_counts(lesions.assign(patient_id=lesions["isic_id"]))
    refuse_telling_counts(lesions)
