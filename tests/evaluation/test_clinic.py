"""The clinical parts of an evaluation: what is in them, when they are withheld, and what is printed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors

from jaxlesion import evaluate
from jaxlesion.core.config import TrainConfig
from jaxlesion.core.fields import replace
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.metadata import metadata_features
from jaxlesion.data.predictions import predictions_table, write_predictions
from jaxlesion.evaluation.clinic import ClinicOptions, Probabilities, clinic, without_uncorrected
from jaxlesion.evaluation.summary import Estimate

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def draw(rows: int = 600, patients: int = 60, seed: int = 0) -> pd.DataFrame:
    """Return out-of-fold predictions of three folds."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(patients, size=rows)
    z = rng.normal(-2.5, 1.5, rows)
    target = (rng.random(rows) < expit(z)).astype(int)
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{i:04d}" for i in range(rows)],
            "patient_id": pd.array([f"IP_{p:02d}" for p in patient], dtype="string"),
            "target": target,
            "fold": patient % 3,
            "prediction": expit(z),
            "model": "m",
        }
    )


def of_table(table: pd.DataFrame, fitted_to: float | None = None, **options):
    return clinic(table, Probabilities(table["prediction"].to_numpy(), fitted_to), ClinicOptions(**options))


def test_parts_are_made_of_their_metrics():
    found = of_table(draw(), resamples=50)
    assert (found.patients["patients"], list(found.patients["retrieval"])) == (60, ["1", "5", "15"])
    assert found.calibration["slope"].value == pytest.approx(1, abs=0.3)
    assert found.calibration["slope"].low < 1 < found.calibration["slope"].high
    assert found.calibration["ici"].low < found.calibration["ici"].high
    assert all(one.low < one.value < one.high or one.value == 1 for one in found.patients["froc"].values())
    curve = found.decision["curve"]
    assert all(a < b < c for a, b, c in zip(curve["model_low"], curve["model"], curve["model_high"], strict=True))
    assert found.calibration["log_loss"].low < found.calibration["log_loss"].value < found.calibration["log_loss"].high
    assert found.decision["needed"]["0.8"]["sensitivity"] >= 0.8
    assert len(found.decision["curve"]["model"]) == 50
    assert any("by chance" in note for note in found.notes)
    assert any("at the table's prevalence" in note for note in found.notes)


def test_retrieval_is_the_mean_over_patients_with_a_malignant_lesion():
    table = draw()
    found = of_table(table, top_k=3).patients["retrieval"]["3"]
    shares, hits, malignant = [], 0, 0
    for _, rows in table.groupby("patient_id"):
        if m := rows["target"].sum():
            top = rows.nlargest(3, "prediction")["target"].sum()
            shares.append(top / m)
            hits, malignant = hits + top, malignant + m
    assert found["sensitivity"].value == pytest.approx(np.mean(shares))
    assert found["pooled"].value == pytest.approx(hits / malignant)
    assert found["any_found"].value == pytest.approx(np.mean(np.array(shares) > 0))


def test_calibrated_predictions_are_shifted_to_a_stated_prevalence_and_others_are_not():
    table = draw(6000)
    p, share = table["prediction"].to_numpy(), table["target"].mean()
    shifted = of_table(table, fitted_to=share, prevalence=0.001).calibration
    benign = share / (1 - share) * 0.999 / 0.001
    expected = expit(logit(p) - np.log(benign))
    weight = np.where(table["target"] == 1, 1, benign)
    assert shifted["prevalence"] == pytest.approx(0.001)
    assert shifted["expected_over_observed"].value == pytest.approx((weight * expected).sum() / table["target"].sum())
    assert shifted["expected_over_observed"].value == pytest.approx(1, abs=0.1)
    plain = of_table(table, prevalence=0.001).calibration
    assert plain["expected_over_observed"].value == pytest.approx((weight * p).sum() / table["target"].sum())


def test_without_patients_or_probabilities_the_parts_are_withheld_in_one_line():
    table = draw()
    table.loc[table["target"] == 0, "patient_id"] = table["isic_id"]
    found = of_table(table)
    assert found.patients is None
    assert sum("no patient-level figures: patients are known for 100.0% of" in note for note in found.notes) == 1
    assert np.isnan(found.decision["needed"]["0.9"]["calls_per_patient"])
    assert clinic(draw(), None).calibration is None
    assert clinic(draw(), None).decision is None


def test_beside_the_whole_fold_there_is_no_brier_score():
    values = {"brier": Estimate(0.1), "ece": Estimate(0.1), "log_loss": Estimate(0.1)}
    summary = {"fold 0": {"normalised": dict(values), "whole fold": dict(values)}}
    found = without_uncorrected(summary, TrainConfig())
    assert list(found["fold 0"]["normalised"]) == [*values]
    assert list(found["fold 0"]["whole fold"]) == ["log_loss"]
    everything = replace(TrainConfig(), {"sampling.negatives_kept": 1.0})
    assert without_uncorrected(summary, everything) == summary
    assert without_uncorrected(summary, replace(everything, {"optim.pos_weight": 2.0})) == found


def test_evaluate_prints_and_writes_the_parts(tmp_path, capsys):
    write_predictions(tmp_path / "oof.csv", draw())
    command = ["--predictions", str(tmp_path / "oof.csv"), "--json", str(tmp_path / "f.json"), "--bootstrap", "20"]
    evaluate.main([*command, "--top-k", "4", "--prevalence", "0.01"])
    printed = capsys.readouterr().out
    for text in ("top 4", "by chance", "AUC within patients", "ICI", "calls per malignant lesion", "1 %", "FROC"):
        assert text in printed
    content = json.loads((tmp_path / "f.json").read_text())
    assert list(content) == ["notes", "bootstrap", "figures", "patients", "calibration", "decision"]
    assert set(content["patients"]["retrieval"]["4"]["sensitivity"]) == {"value", "low", "high"}
    assert content["patients"]["at_chosen_threshold"]["sensitivity"]["value"] <= 1
    assert content["decision"]["stated_prevalence"] is True


@pytest.mark.parametrize("option", [["--top-k", "0"], ["--prevalence", "0"], ["--prevalence", "1"]])
def test_options_out_of_range_are_refused(option, tmp_path, capsys):
    write_predictions(tmp_path / "oof.csv", draw())
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--predictions", str(tmp_path / "oof.csv"), *option])
    assert left.value.code == 2
    assert option[0] in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="the real metadata (shared/data) is not beside the repository")
def test_real_patients_have_few_lesions_and_that_is_said():
    """Predict real lesions by the 25 nearest of the other folds' metadata."""
    lesions = read_lesions(REAL / "slice3d_metadata" / "train-metadata.csv")
    fold, share = np.zeros(len(lesions), int), np.zeros(len(lesions))
    for k, (trained, held_out) in enumerate(GroupKFold(5).split(lesions, groups=lesions["patient_id"])):
        features = metadata_features(lesions, np.isin(np.arange(len(lesions)), trained)).values
        near = NearestNeighbors(n_neighbors=25).fit(features[trained]).kneighbors(features[held_out])[1]
        fold[held_out], share[held_out] = k, lesions["target"].to_numpy()[trained][near].mean(1)
    table = predictions_table(lesions, share, "knn").assign(fold=pd.array(fold, dtype="Int8"))
    found = of_table(table)
    assert (found.patients["patients"], found.patients["malignant_patients"]) == (391, 131)
    assert found.patients["with_at_most_k_lesions"] == 113
    assert found.patients["retrieval"]["15"]["chance_pooled"] == pytest.approx(0.935, abs=5e-4)
    assert (
        found.patients["retrieval"]["1"]["sensitivity"].value
        > 0.5
        > found.patients["retrieval"]["1"]["chance_any_found"]
    )
    assert any("113 of 131 patients" in note for note in found.notes)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real crops (shared/data) are not beside the repository")
def test_real_crops_whose_patients_are_known_for_malignant_rows_alone_have_no_patient_level_figures():
    lesions = read_lesions(REAL / "slice3d" / "train-metadata.csv")
    table = predictions_table(lesions, np.full(len(lesions), 0.5), "m")
    assert clinic(table, None).patients is None
