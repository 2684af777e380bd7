"""Metrics of a group come from its rows alone, and are withheld where rows are too few."""

import numpy as np
import pandas as pd
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.predictions import predictions_table, read_predictions
from jaxlesion.evaluation.bootstrap import Scores, resample
from jaxlesion.evaluation.metrics import roc_auc
from jaxlesion.evaluation.registry import classification
from jaxlesion.evaluation.subgroups import VARIABLES, as_text, by_subgroup, with_skin_tone

N = 600
FIGURES = ["roc_auc", "roc_auc_low", "roc_auc_high", "sensitivity", "sensitivity_low", "sensitivity_high"]


@pytest.fixture(scope="module")
def lesions() -> pd.DataFrame:
    """Return rows of 90 patients with known groups; 120 rows are malignant."""
    rng, row = np.random.default_rng(4), np.arange(N)
    patient = rng.integers(0, 90, N)
    return pd.DataFrame(
        {
            "isic_id": [f"i{i}" for i in row],
            "patient_id": [f"p{k}" for k in patient],
            "target": (row % 5 == 0).astype(np.int8),
            "sex": np.array(["female", "male", None], object)[np.minimum(patient % 20 // 9, 2)],
            "age_approx": rng.permutation(np.resize([20, 30, 40, 45, 55, 60, 70, 75, 85, np.nan], N)),
            "clin_size_long_diam_mm": rng.gamma(4, 1, N),
            "attribution": np.where(row < 20, "small hospital", "large hospital"),
            "iddx_2": np.where(row % 5, "Nevus", np.where(row % 10, "Melanoma", "Basal cell carcinoma")),
        }
    )


@pytest.fixture(scope="module")
def table(lesions) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    prediction = 1 / (1 + np.exp(-rng.normal(2 * lesions["target"] - 1)))
    return predictions_table(lesions, prediction.astype(np.float32), "fold_0/1", 0)


@pytest.fixture(scope="module")
def found(table, lesions) -> pd.DataFrame:
    return by_subgroup(table, lesions, 0.4, resamples=200, seed=7)


def line(found: pd.DataFrame, variable: str, group: str) -> pd.Series:
    (row,) = found.index[(found["variable"] == variable) & (found["group"] == group)]
    return found.loc[row]


def test_groups_come_in_a_fixed_order_and_cover_each_row_once(found):
    groups = found.groupby("variable", sort=False)["group"].agg(list).to_dict()
    assert groups == {
        "sex": ["female", "male", "unknown"],
        "age_approx": ["<30", "30-44", "45-59", "60-74", ">=75", "unknown"],
        "attribution": ["large hospital", "small hospital"],
        "clin_size_long_diam_mm": ["<3 mm", "3 to <4 mm", "4 to <6 mm", ">=6 mm"],
        "iddx_2": ["Basal cell carcinoma", "Melanoma"],
    }
    counts = found.groupby("variable")[["n", "positives"]].sum()
    assert (counts["positives"] == 120).all()
    assert (counts["n"].drop("iddx_2") == N).all()
    assert counts["n"]["iddx_2"] == 120  # the malignant ones only


def test_figures_are_those_of_the_rows_alone(found, table, lesions):
    here = (lesions["age_approx"] >= 45) & (lesions["age_approx"] < 60)
    row, part = line(found, "age_approx", "45-59"), table[here]
    target, prediction = part["target"].to_numpy(int), part["prediction"].to_numpy(float)
    assert (row["n"], row["positives"]) == (here.sum(), target.sum())
    assert row["patients"] == lesions["patient_id"][here].nunique()
    assert row["roc_auc"] == roc_auc(target, prediction)
    assert row["sensitivity"] == classification(target, prediction, 0.4)["malignant_recall"]
    drawn = resample(target, [Scores(prediction, {"": 0.4})], part["patient_id"], resamples=200, seed=7)
    assert (row["roc_auc_low"], row["roc_auc_high"]) == drawn.limits("roc_auc", row["roc_auc"])
    assert (row["sensitivity_low"], row["sensitivity_high"]) == drawn.limits("malignant_recall", row["sensitivity"])
    assert row["withheld"] == ""


@pytest.mark.parametrize("band", ["<3 mm", "3 to <4 mm", "4 to <6 mm", ">=6 mm"])
def test_an_edge_belongs_to_the_band_above_it(band):
    at = {"<3 mm": 2.99, "3 to <4 mm": 3, "4 to <6 mm": 4, ">=6 mm": 6}[band]
    lesions = pd.DataFrame({"isic_id": ["a"], "target": [1], "clin_size_long_diam_mm": [at]})
    assert by_subgroup(predictions_table(lesions, np.array([0.5]), "m"), lesions)["group"].tolist() == [band]


def test_a_diagnosis_has_a_sensitivity_and_no_auc(found, table, lesions):
    row = line(found, "iddx_2", "Melanoma")
    here = (lesions["iddx_2"] == "Melanoma").to_numpy()
    assert row["sensitivity"] == (table["prediction"][here] >= 0.4).mean()
    assert row["sensitivity_low"] < row["sensitivity"] < row["sensitivity_high"]
    assert row[["roc_auc", "roc_auc_low", "roc_auc_high"]].isna().all()
    assert (row["n"], row["withheld"]) == (60, "")


def test_few_malignant_rows_are_withheld(found):
    row = line(found, "attribution", "small hospital")
    assert (row["n"], row["positives"], row["withheld"]) == (20, 4, "fewer than 10 malignant rows")
    assert row[FIGURES].isna().all()


@pytest.mark.parametrize(("positives", "withheld"), [(9, True), (10, False)])
def test_ten_malignant_rows_are_enough(positives, withheld):
    lesions = pd.DataFrame({"isic_id": [f"i{i}" for i in range(40)], "sex": "male"})
    lesions["target"] = (np.arange(40) < positives).astype(int)
    lesions["patient_id"] = lesions["isic_id"]
    found = by_subgroup(predictions_table(lesions, np.linspace(1, 0, 40), "m"), lesions, resamples=20)
    assert found["roc_auc"].isna().tolist() == [withheld]


def test_one_class_is_withheld(table, lesions):
    malignant = (lesions["target"] == 1).to_numpy()
    found = by_subgroup(table[malignant], lesions, resamples=20)
    rest = found[(found["variable"] == "sex") & (found["positives"] >= 10)]
    assert (rest["withheld"] == "no benign row").all()
    assert rest[FIGURES].isna().all(axis=None)


def test_rows_and_metadata_may_come_in_any_order(found, table, lesions):
    other = by_subgroup(
        table.sample(frac=1, random_state=1), lesions.sample(frac=1, random_state=2), 0.4, resamples=200, seed=7
    )
    pd.testing.assert_frame_equal(other, found, rtol=1e-12)


def test_a_threshold_may_differ_from_row_to_row(table, lesions):
    here = lesions["sex"] == "male"
    found = by_subgroup(table, lesions, np.where(here, 0.0, 0.4), resamples=20)
    assert line(found, "sex", "male")["sensitivity"] == 1
    assert line(found, "sex", "female")["sensitivity"] < 1


def test_without_patients_rows_are_drawn_and_patients_are_not_counted(table, lesions):
    found = by_subgroup(table.assign(patient_id=None), lesions[["isic_id", "sex"]], 0.4, resamples=50)
    assert found["patients"].isna().all()
    by_row = by_subgroup(table.assign(patient_id=lesions["isic_id"]), lesions[["isic_id", "sex"]], 0.4, resamples=50)
    for name in ("roc_auc", "sensitivity"):
        np.testing.assert_allclose(
            found[f"{name}_high"] - found[f"{name}_low"], by_row[f"{name}_high"] - by_row[f"{name}_low"], rtol=0.3
        )
    one = by_subgroup(table.assign(patient_id=table["patient_id"].where(table.index > 0)), lesions[["isic_id", "sex"]])
    assert one["patients"].isna().sum() == 1


def test_without_draws_there_are_no_intervals(found, table, lesions):
    bare = by_subgroup(table, lesions, 0.4, resamples=0)
    limits = [name for name in FIGURES if name.endswith(("_low", "_high"))]
    assert bare[limits].isna().all(axis=None)
    rest = [name for name in found if name not in limits]
    pd.testing.assert_frame_equal(bare[rest], found[rest])


def test_patients_may_come_from_the_metadata(found, table, lesions):
    pd.testing.assert_frame_equal(
        by_subgroup(table.assign(patient_id=None), lesions, 0.4, resamples=200, seed=7), found, rtol=1e-12
    )


def test_metadata_without_any_such_column_gives_no_line(table, lesions):
    found = by_subgroup(table, lesions[["isic_id", "patient_id"]])
    assert list(found) == ["variable", "group", "n", "positives", "patients", *FIGURES, "withheld"]
    assert len(found) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(isic_id=["other", *t["isic_id"][1:]]), "other is not in the metadata"),
        (lambda t: t.assign(target=pd.array([None, *t["target"][1:]], dtype="Int8")), "i0 has no target"),
        (lambda t: pd.concat([t, t]), "i0 is predicted twice"),
    ],
)
def test_what_cannot_be_grouped_is_refused(change, message, table, lesions):
    with pytest.raises(InputError, match=message):
        by_subgroup(change(table), lesions)


def test_a_run_on_the_competitions_columns(tiny_run, demo):
    groups = []
    table, metadata = read_predictions(tiny_run / "oof.csv"), read_lesions(demo / "train-metadata.csv")
    found = by_subgroup(table, metadata, resamples=20, after=groups.append)
    assert groups == found["group"].tolist()
    there = [name for name in VARIABLES if not name.startswith("fitzpatrick")]  # which the challenge does not have
    assert found["variable"].unique().tolist() == [*there, "iddx_2", "iddx_3"]
    text = as_text(found).splitlines()
    assert len(text) == len(found) + 1
    assert "fewer than 10 malignant rows" in text[1]


def test_text_shows_a_figure_with_its_interval(found):
    row = line(found, "sex", "female")
    (text,) = (t for t in as_text(found).splitlines() if t.split()[:2] == ["sex", "female"])
    assert f"{row['roc_auc']:.3f} ({row['roc_auc_low']:.3f} to {row['roc_auc_high']:.3f})" in text
    assert not {"nan", "<NA>"} & set(as_text(found).split())


def test_skin_tone_is_the_typology_angle_in_its_classes():
    """ITA of 45 degrees where L* - 50 = b*, and the classes' cuts belong to the lighter one."""
    angle = np.array([60, 55, 54.9, 41, 28, 10, 9.9, -30, -30.1])
    lesions = pd.DataFrame({"tbp_lv_Lext": 50 + 20 * np.tan(np.deg2rad(angle)), "tbp_lv_Bext": 20.0})
    lesions.loc[9] = [np.nan, 20.0]
    tones = with_skin_tone(lesions.round(9))["skin_tone"]
    np.testing.assert_allclose(tones[:9], angle)
    assert np.isnan(tones[9])
    assert "skin_tone" not in with_skin_tone(lesions[["tbp_lv_Lext"]])


def test_skin_tones_are_groups_from_dark_to_very_light(table, lesions):
    angle = np.linspace(-60, 80, len(lesions))
    lesions = lesions.assign(tbp_lv_Lext=50 + 20 * np.tan(np.deg2rad(angle)), tbp_lv_Bext=20.0)
    groups = by_subgroup(table, lesions, resamples=0).query("variable == 'skin_tone'")
    assert groups["group"].tolist() == ["dark", "brown", "tan", "intermediate", "light", "very light"]
    assert groups["n"].sum() == len(table)


def test_text_shortens_names_of_hospitals(found):
    name = "Department of Dermatology, University of Athens, Andreas Syggros Hospital"
    text = as_text(found.assign(group=name))
    assert name not in text
    assert "Department of Dermatology, University..." in text
