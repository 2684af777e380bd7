"""Metrics of prediction tables: by fold, pooled and averaged, with intervals, thresholds and comparisons."""

import json

import numpy as np
import pandas as pd
import pytest

from jaxlesion import evaluate
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluate import EvaluateConfig
from jaxlesion.evaluation.bootstrap import Scores, resample
from jaxlesion.evaluation.crossfold import rank_within_folds
from jaxlesion.evaluation.registry import CHOSEN, classification, summary
from jaxlesion.evaluation.summary import EvalOptions, summarise


def draw(seed: int = 0, rows: int = 300, patients: int = 40, gain: float = 2.0) -> pd.DataFrame:
    """Return out-of-fold predictions of three folds; all gains have the same lesions."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(patients, size=rows)
    target = (rng.random(rows) < 0.2).astype(int)
    score = gain * target + rng.normal(size=patients)[patient] + rng.normal(size=rows) - 1
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{i:04d}" for i in range(rows)],
            "patient_id": [f"IP_{p:02d}" for p in patient],
            "target": target,
            "fold": patient % 3,
            "prediction": np.round(1 / (1 + np.exp(-score)), 3),
            "model": [f"fold_{p % 3}/8" for p in patient],
        }
    )


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a table of predictions and returns its path."""

    def write(table: pd.DataFrame, name: str = "oof.csv"):
        table.to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return write


def refused(argv, capsys) -> str:
    with pytest.raises(SystemExit) as left:
        evaluate.main([str(word) for word in argv])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_pooled_is_of_all_rows_and_mean_of_folds_is_the_mean(written):
    table = draw()
    parts = evaluate.evaluate(EvaluateConfig(predictions=written(table), bootstrap=50))
    assert list(parts) == ["fold 0", "fold 1", "fold 2", "pooled", "mean of folds"]
    folds = [table[table["fold"] == k] for k in range(3)]
    for part, rows in zip(parts, [*folds, table], strict=False):
        rank = rank_within_folds(rows["target"], rows["prediction"], rows["fold"]) if part == "pooled" else None
        for name, value in summary(rows["target"], rows["prediction"], rank=rank).items():
            assert parts[part]["all rows"][name].value == value, (part, name)
    mean = parts["mean of folds"]["all rows"]
    assert not {"n", "tp", "threshold", "chosen_threshold"} & set(mean)
    for name, figure in mean.items():
        assert figure.value == pytest.approx(np.mean([parts[f"fold {k}"]["all rows"][name].value for k in range(3)]))
        if name == "pauc":  # too high in small folds
            assert figure.low is None
        elif figure.low is not None:
            assert figure.low <= figure.value <= figure.high, name
    assert mean["roc_auc"].low < mean["roc_auc"].value < mean["roc_auc"].high


def test_intervals_stand_beside_every_share_but_not_beside_counts(written, tmp_path, capsys):
    out = tmp_path / "figures.json"
    evaluate.main(["--predictions", str(written(draw())), "--json", str(out), "--bootstrap", "60"])
    content = json.loads(out.read_text())
    assert content["bootstrap"] == {"draws": 60, "by": "patient", "level": 0.95, "omitted": {}}
    figures = content["figures"]["pooled"]["all rows"]
    assert {name for name, figure in figures.items() if figure["low"] is None} == {
        *("n", "positives", "positive_to_negative", "threshold", "benign_support", "malignant_support"),
        *(start + name for start in ("", CHOSEN) for name in ("tn", "fp", "fn", "tp", "predicted_positives")),
    }
    auc = figures["roc_auc"]
    assert auc["low"] < auc["value"] < auc["high"]
    printed = capsys.readouterr().out
    assert f"{auc['value']:.4f} [{auc['low']:.4f}, {auc['high']:.4f}]" in printed
    assert "60 draws of patients" in printed
    assert "mean of folds" in printed
    assert "never chosen on the rows it is reported on" in printed


def test_without_a_bootstrap_there_are_no_intervals(written, capsys):
    parts = evaluate.evaluate(EvaluateConfig(predictions=written(draw()), bootstrap=0))
    assert all(figure.low is None for figure in parts["pooled"]["all rows"].values())
    assert "draws" not in capsys.readouterr().out


def test_rows_without_patients_are_drawn_by_row_and_that_is_said(written, capsys):
    table = draw().drop(columns="patient_id")
    evaluate.evaluate(EvaluateConfig(predictions=written(table), bootstrap=20))
    assert "20 draws of rows, since no patient is known to have two of them" in capsys.readouterr().out


def test_a_table_without_folds_is_one_part_and_has_no_chosen_threshold(written, capsys):
    parts = evaluate.evaluate(EvaluateConfig(predictions=written(draw().drop(columns="fold")), bootstrap=20))
    assert list(parts) == ["oof.csv"]
    assert not [name for name in parts["oof.csv"]["all rows"] if name.startswith(CHOSEN)]
    assert "no threshold can be chosen" in capsys.readouterr().out


def test_the_threshold_of_a_fold_does_not_see_the_fold(written):
    table = draw()
    at = {}
    for name, flipped in (("as it is", []), ("changed", [0])):
        changed = table.assign(target=np.where(table["fold"].isin(flipped), 1 - table["target"], table["target"]))
        parts = evaluate.evaluate(EvaluateConfig(predictions=written(changed), bootstrap=0))
        at[name] = [parts[f"fold {k}"]["all rows"]["chosen_threshold"].value for k in range(3)]
    assert at["as it is"][0] == at["changed"][0]
    assert at["as it is"][1:] != at["changed"][1:]


def test_chosen_figures_are_those_at_the_thresholds_of_the_folds(written):
    table = draw()
    parts = evaluate.evaluate(EvaluateConfig(predictions=written(table), bootstrap=20, sensitivity=0.9))
    called = np.zeros(len(table), bool)
    for k in range(3):
        estimates, held_out = parts[f"fold {k}"]["all rows"], table["fold"] == k
        threshold = estimates["chosen_threshold"].value
        others = table[~held_out]
        assert classification(others["target"], others["prediction"], threshold)["malignant_recall"] >= 0.9
        expected = classification(table["target"][held_out], table["prediction"][held_out], threshold)
        assert {name: estimates[CHOSEN + name].value for name in expected} == expected
        called |= held_out & (table["prediction"] >= threshold)
    pooled = parts["pooled"]["all rows"]
    assert pooled["chosen_predicted_positives"].value == called.sum()
    assert pooled["chosen_accuracy"].value == pytest.approx((called == table["target"]).mean())
    assert pooled["chosen_malignant_recall"].low < pooled["chosen_malignant_recall"].high


def test_a_collapse_shows_in_the_number_called_malignant(written, capsys):
    table = draw()
    table["prediction"] /= 10
    parts = evaluate.evaluate(EvaluateConfig(predictions=written(table), bootstrap=20))
    figures = parts["pooled"]["all rows"]
    assert figures["predicted_positives"].value == 0
    # Nothing called: F1 is 0, yet the rule may find up to so many of 31 malignant patients.
    assert figures["malignant_f1"] == pytest.approx((0, 0, 1 - 0.025 ** (1 / 31)))
    assert figures["malignant_precision"] == (0, None, None)
    assert figures["roc_auc"].value > 0.8
    assert "called malignant" in capsys.readouterr().out


def test_the_order_of_the_rows_changes_nothing():
    table = read_predictions_of(draw())
    options = EvalOptions(resamples=30)
    shuffled = table.sample(frac=1, random_state=1)
    assert summarise({"all": table}, "", options) == summarise({"all": shuffled}, "", options)


def read_predictions_of(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({"target": "Int8", "fold": "Int8", "isic_id": "string", "patient_id": "string"})


def test_compare_gives_both_tables_and_paired_differences(written, tmp_path, capsys):
    a, b = draw(gain=3), draw(gain=1).sample(frac=1, random_state=1)
    out = tmp_path / "compared.json"
    command = ["--compare", str(written(a, "a.csv")), str(written(b, "b.csv"))]
    evaluate.main([*command, "--bootstrap", "200", "--json", str(out)])
    content = json.loads(out.read_text())
    figures = content["figures"]
    for side, table in (("a", a), ("b", b)):
        rank = rank_within_folds(table["target"], table["prediction"], table["fold"])
        expected = summary(table["target"], table["prediction"], rank=rank)
        for name in ("roc_auc", "pr_auc", "pauc", "ece", "malignant_f1"):
            assert figures[name][side] == expected[name]
    auc = figures["roc_auc"]
    assert auc["difference"] == auc["a"] - auc["b"] > 0.1
    assert 0 < auc["low"] < auc["difference"] < auc["high"]
    assert auc["p"] == pytest.approx(1 / 10_001)  # no swap of patients has so large a difference
    assert auc["p_holm"] is None
    assert figures["pauc"]["p"] <= figures["pauc"]["p_holm"] <= 1
    assert all(figures[name]["p"] is figures[name]["p_holm"] is None for name in ("brier", "log_loss", "ece"))
    assert content["permutation"] == {"draws": 10_000, "primary": "roc_auc"}
    assert "chosen_malignant_f1" in figures
    printed = capsys.readouterr().out
    assert "200 draws of patients" in printed
    assert "two-sided" in printed
    assert "it is about these two trained networks" in printed
    assert "calibration error are of predictions as they are and have no p" in printed
    # Pairing is sharper than two intervals: a table's difference from itself is exactly zero.
    same = evaluate.evaluate(EvaluateConfig(compare=(tmp_path / "a.csv", tmp_path / "a.csv"), bootstrap=20))
    assert all(one.difference == 0 and one.p in (1, None) for one in same.values())


def test_compared_probabilities_are_the_calibrated_ones_of_both_tables(written, capsys):
    table = draw(gain=2)
    odds = (table["prediction"] / (1 - table["prediction"])) ** 3 / 3
    sure = table.assign(prediction=odds / (1 + odds), calibrated=table["prediction"])
    pair = (written(table.assign(calibrated=table["prediction"]), "a.csv"), written(sure, "sure.csv"))
    found = evaluate.evaluate(EvaluateConfig(compare=pair, bootstrap=20, primary="brier"))
    assert "calibration error are of the column calibrated" in capsys.readouterr().out
    plain = summary(table["target"], table["prediction"])
    for key in ("brier", "log_loss", "ece"):
        assert found[key].a == found[key].b == plain[key]
        assert (found[key].low, found[key].high, found[key].p) == (0, 0, 1)
    assert found["malignant_recall"].difference != 0  # calls are of predictions as they are
    some = sure.assign(calibrated=sure["calibrated"].where(sure.index > 0))
    pair = (pair[0], written(some, "some.csv"))
    assert "--primary brier has no p here" in refused(["--compare", *pair, "--primary", "brier"], capsys)
    found = evaluate.evaluate(EvaluateConfig(compare=pair, bootstrap=20))
    assert found["brier"].p is None
    assert found["brier"].difference != 0


def test_tables_of_other_rows_do_not_compare(written, capsys):
    table = draw()
    a = written(table, "a.csv")
    shorter = written(table.iloc[1:], "shorter.csv")
    for pair in ((a, shorter), (shorter, a)):
        message = refused(["--compare", *pair], capsys)
        assert f"ISIC_0000 is in {a} and not in {shorter}" in message
    other = written(table.assign(target=np.where(table.index == 7, 1 - table["target"], table["target"])), "other.csv")
    before, after = table["target"][7], 1 - table["target"][7]
    assert f"target of ISIC_0007 is {before} in {a} and {after} in" in refused(["--compare", a, other], capsys)
    patient = written(table.assign(patient_id="IP_00"), "patient.csv")
    assert "patient_id of ISIC_0000" in refused(["--compare", a, patient], capsys)
    both = written(pd.concat([table, table.assign(model="other")]), "both.csv")
    assert "ISIC_0000 is there for two models" in refused(["--compare", both, both], capsys)
    assert "ISIC_0000 is there for two models" in refused(["--predictions", both], capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bootstrap", "-1"], "--bootstrap is a number of draws"),
        (["--sensitivity", "1.5"], "--sensitivity must be in"),
        (["--threshold", "nan"], "threshold is nan"),
        (["--json", "absent/figures.json"], "there is no such folder"),
        (["--primary", "n"], "--primary n is no metric with an interval"),
        (["--compare", "a.csv", "b.csv"], "--compare takes two tables of its own"),
    ],
)
def test_wrong_options_are_one_line(options, message, written, capsys):
    assert message in refused(["--predictions", written(draw()), *options], capsys)


def test_a_table_that_was_written_is_read_as_the_same_figures(written):
    path = written(draw())
    direct = summarise({"all rows": read_predictions_of(draw())}, "", EvalOptions(resamples=20))
    assert evaluate.evaluate(EvaluateConfig(predictions=path, bootstrap=20)) == direct
    assert len(read_predictions(path)) == 300


def test_few_malignant_patients_withhold_intervals_and_that_is_said(written, capsys):
    table = draw(patients=60)
    few = table[(table["target"] == 0) | table["patient_id"].isin(sorted(table["patient_id"].unique())[:8])]
    malignant = few.loc[few["target"] == 1, "patient_id"].nunique()
    assert malignant < 10
    figures = evaluate.evaluate(EvaluateConfig(predictions=written(few), bootstrap=60))["pooled"]["all rows"]
    given = {name for name, figure in figures.items() if figure.low is not None}
    assert given == {f"{start}{name}" for start in ("", CHOSEN) for name in ("specificity", "benign_recall")}
    printed = capsys.readouterr().out
    assert f"no interval where fewer than 10 patients have a malignant lesion: here {malignant}" in printed
    some = table[(table["target"] == 0) | (table["patient_id"] < "IP_30")]
    evaluate.evaluate(EvaluateConfig(predictions=written(some), bootstrap=60))
    assert "below 40 intervals are uncertain" in capsys.readouterr().out


def test_a_patient_who_holds_a_whole_class_is_an_omitted_replicate_and_that_is_said(written, tmp_path, capsys):
    table = draw(patients=60)
    first = table[table["target"] == 0].iloc[:1]["patient_id"].item()
    lone = table[(table["target"] == 1) | (table["patient_id"] == first)].drop(columns="fold")
    rows = read_predictions(written(lone))
    patient = rows["patient_id"].to_numpy()
    score = Scores(rows["prediction"].to_numpy())
    found = resample(rows["target"].to_numpy(int), [score], patient, resamples=2).support[0].spreads
    assert found["roc_auc"].omitted == found["pauc"].omitted == 1
    out = tmp_path / "figures.json"
    evaluate.main(["--predictions", str(written(lone)), "--bootstrap", "20", "--json", str(out)])
    content = json.loads(out.read_text())
    assert content["bootstrap"]["omitted"] == {"oof.csv": {"all rows": 1}}
    assert "holds all rows of a class: 1 in oof.csv, all rows" in " ".join(content["notes"])
    evaluate.main(["--predictions", str(written(table)), "--bootstrap", "20", "--json", str(out)])
    content = json.loads(out.read_text())
    assert content["bootstrap"]["omitted"] == {}
    assert "holds all rows" not in " ".join(content["notes"])


def test_a_scale_of_its_own_for_each_fold_changes_no_pooled_area():
    table = read_predictions_of(draw())
    scaled = table.assign(prediction=table["prediction"] ** (1 + table["fold"].astype(int)))
    for key in ("roc_auc", "pauc"):
        one, other = (
            summarise({"all": t}, "", EvalOptions(resamples=20))["pooled"]["all"][key] for t in (table, scaled)
        )
        assert one == other
        assert one.low < one.value < one.high


def test_another_primary_metric_is_left_out_of_the_adjustment(written, tmp_path):
    pair = written(draw(gain=3), "a.csv"), written(draw(gain=1), "b.csv")
    compared = evaluate.evaluate(EvaluateConfig(compare=pair, bootstrap=20, primary="pauc"))
    assert compared["pauc"].p_holm is None
    assert compared["roc_auc"].p_holm >= compared["roc_auc"].p
