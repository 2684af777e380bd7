import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

import jaxlesion
from jaxlesion import evaluate, predict, report, tabular
from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import read_predictions
from jaxlesion.runs.store import Run
from jaxlesion.ui.options import parse_tabular, parse_train


@pytest.fixture(scope="module")
def bare(demo, tmp_path_factory):
    """Return a folder with the tables of the demo and without its images."""
    folder = tmp_path_factory.mktemp("tables")
    for name in ("train-metadata.csv", "test-metadata.csv"):
        shutil.copy(demo / name, folder)
    return folder


def test_every_row_is_predicted_once_by_the_fold_that_held_it_out(tabular_run, demo):
    table = read_predictions(tabular_run / "oof.csv")
    folds = pd.read_csv(tabular_run / "folds.csv").set_index("isic_id")["fold"]
    assert sorted(table["isic_id"]) == sorted(pd.read_csv(demo / "train-metadata.csv")["isic_id"])
    assert (table["fold"].to_numpy() == folds[table["isic_id"]].to_numpy()).all()
    assert table.groupby("patient_id")["fold"].nunique().max() == 1
    assert set(table["model"]) == {f"fold_{k}/15" for k in range(5)}
    assert Run.open(tabular_run).calibration().cross_fitted


def test_a_folder_with_the_table_alone_is_enough_and_gives_the_same(bare, tabular_run, few_trees, tmp_path):
    tabular.main(["--data-dir", str(bare), "--run-dir", str(tmp_path / "run"), "--folds.no-stratify", *few_trees])
    assert (tmp_path / "run" / "oof.csv").read_bytes() == (tabular_run / "oof.csv").read_bytes()


def test_what_a_fold_holds_out_does_not_change_its_trees(bare, few_trees, tmp_path):
    """Other labels and measurements of the held-out patients leave trees and columns of their fold as they are."""
    first = tmp_path / "first"
    options = ["--fold", "0", "--sampling.negatives-kept", "1", *few_trees]
    tabular.main(["--data-dir", str(bare), "--run-dir", str(first), *options])
    folds = pd.read_csv(first / "folds.csv")
    table = pd.read_csv(bare / "train-metadata.csv", low_memory=False)
    held = table["isic_id"].isin(folds["isic_id"][folds["fold"] == 0]).to_numpy()
    table.loc[held, "tbp_lv_A"] *= 100.0
    table.loc[held, "target"] = 1 - table.loc[held, "target"]
    table.loc[held, "sex"] = "other"
    changed = tmp_path / "changed"
    changed.mkdir()
    table.to_csv(changed / "train-metadata.csv", index=False)
    given = ["--folds.file", str(first / "folds.csv")]
    tabular.main(["--data-dir", str(changed), "--run-dir", str(tmp_path / "second"), *options, *given])
    for name in ("trees-0.txt", "trees-1.txt", "features.json"):
        assert (tmp_path / "second" / "fold_0" / name).read_text() == (first / "fold_0" / name).read_text(), name


def test_evaluate_predicts_again_what_training_wrote(tabular_run, tmp_path, capsys):
    evaluate.main(["--run", str(tabular_run), "--bootstrap", "0", "--out", str(tmp_path / "again.csv")])
    again, first = read_predictions(tmp_path / "again.csv"), read_predictions(tabular_run / "oof.csv")
    np.testing.assert_allclose(again["prediction"], first["prediction"], atol=1e-12)
    assert "largest difference to the predictions that training wrote: 0.0e+00" in capsys.readouterr().out


def test_a_run_of_before_there_were_digests_is_read_and_a_changed_one_is_not(tabular_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tabular_run, run)
    command = ["--run", str(run), "--bootstrap", "0", "--out", str(tmp_path / "again.csv")]
    trees, record = run / "fold_1" / "trees-0.txt", run / "fold_1" / "features.json"
    trees.write_text(trees.read_text().replace("shrinkage=1", "shrinkage=2", 1))
    with pytest.raises(SystemExit) as ended:
        evaluate.main(command)
    assert ended.value.code == 2
    assert f"{trees}: its SHA-256" in capsys.readouterr().err
    content = json.loads(record.read_text())
    assert list(content.pop("sha256")) == ["trees-0.txt", "trees-1.txt"]
    record.write_text(json.dumps(content))
    evaluate.main(command)
    record.write_text(json.dumps(content | {"sha256": ["x"]}))
    with pytest.raises(SystemExit):
        evaluate.main(command)
    assert "features.json: holds no digests of trees" in capsys.readouterr().err


def test_new_rows_are_predicted_alone_and_in_any_order(tabular_run, bare, tmp_path):
    """A prediction depends on the rows of its own patient, not on others nor on their order."""
    table = pd.read_csv(bare / "train-metadata.csv", low_memory=False).drop(columns=["target", "attribution"])
    table["patient_id"] = "N" + table["patient_id"].astype(str)

    def predictions(rows: pd.DataFrame, name: str) -> pd.Series:
        folder = tmp_path / name
        folder.mkdir()
        rows.to_csv(folder / "test-metadata.csv", index=False)
        out = folder / "out.csv"
        predict.main(["--run", str(tabular_run), "--data-dir", str(folder), "--out", str(out)])
        found = pd.read_csv(out)
        assert found["isic_id"].tolist() == rows["isic_id"].tolist()
        return found.set_index("isic_id")["prediction"]

    whole = predictions(table, "whole")
    shuffled = predictions(table.sample(frac=1, random_state=0), "shuffled")
    np.testing.assert_allclose(shuffled[whole.index], whole, rtol=1e-12)
    some = table[table["patient_id"].isin(table["patient_id"].unique()[:4])]
    np.testing.assert_allclose(predictions(some, "some"), whole[some["isic_id"]], rtol=1e-12)


def test_calibrated_predictions_and_a_submission(tabular_run, bare, tmp_path, capsys):
    out, submission = tmp_path / "p.csv", tmp_path / "s.csv"
    command = ["--run", str(tabular_run), "--data-dir", str(bare), "--out", str(out), "--submission", str(submission)]
    predict.main([*command, "--calibrated"])
    table = pd.read_csv(out)
    assert table["model"].iloc[0].endswith(", calibrated")
    assert pd.read_csv(submission)["target"].tolist() == table["prediction"].tolist()


def test_each_new_lesion_has_its_five_reasons(tabular_run, bare, tmp_path):
    command = ["--run", str(tabular_run), "--data-dir", str(bare), "--out", str(tmp_path / "p.csv")]
    predict.main([*command, "--explain", str(tmp_path / "why.csv")])
    why, ids = pd.read_csv(tmp_path / "why.csv"), pd.read_csv(tmp_path / "p.csv")["isic_id"]
    assert why["isic_id"].tolist() == np.repeat(ids, 5).tolist()
    assert (why.groupby("isic_id", sort=False)["log_odds"].apply(lambda x: (np.diff(np.abs(x)) <= 0).all())).all()
    row = pd.read_csv(bare / "test-metadata.csv").set_index("isic_id")
    for one in why[why["feature"].isin(row.columns) & why["value"].notna()].itertuples():
        if isinstance(row.loc[one.isic_id, one.feature], float):
            assert one.value == pytest.approx(row.loc[one.isic_id, one.feature], rel=1e-6)


def test_resume_trains_what_is_missing(bare, tabular_run, few_trees, tmp_path):
    command = ["--data-dir", str(bare), "--run-dir", str(tmp_path / "run"), "--folds.no-stratify", *few_trees]
    tabular.main([*command, "--fold", "1"])
    with pytest.raises(SystemExit):
        tabular.main(command)
    for _ in range(2):  # the second time nothing is missing
        tabular.main(["--run-dir", str(tmp_path / "run"), "--resume"])
    assert (tmp_path / "run" / "oof.csv").read_bytes() == (tabular_run / "oof.csv").read_bytes()


def test_text_among_the_numbers_that_a_fold_holds_out_is_named_before_training(bare, tmp_path, few_trees, capsys):
    table = pd.read_csv(bare / "train-metadata.csv", low_memory=False).assign(haemoglobin=lambda t: t.index % 9 * 1.5)
    table["haemoglobin"] = table["haemoglobin"].astype(object)
    table.loc[5, "haemoglobin"] = "high"
    table.to_csv(tmp_path / "train-metadata.csv", index=False)
    with pytest.raises(SystemExit):
        tabular.main(["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"), *few_trees])
    said = capsys.readouterr().err
    assert f"haemoglobin of {table['isic_id'][5]} is 'high'" in said
    assert "correct the cell" in said
    assert not (tmp_path / "run").exists()


def test_a_report_explains_the_trees(tabular_run, tmp_path):
    report.main(["--run", str(tabular_run), "--out", str(tmp_path / "r"), "--bootstrap", "20"])
    page, card = (tmp_path / "r" / "report.html").read_text(), (tmp_path / "r" / "model_card.md").read_text()
    assert "What the trees rest on" in page
    assert "moved most by" in page
    assert "Grad-CAM" not in page
    assert "learning curves" not in page.lower()
    for word in ("network", "Pixels", "px", "None"):
        assert f" {word} " not in card.split("## TRIPOD+AI")[1].split("## CLAIM")[0].replace("None by design", ""), word
    assert (tmp_path / "r" / "importance.png").is_file()
    assert (tmp_path / "r" / "dependence.png").is_file()


def test_subgroups_are_known(tabular_run, capsys):
    evaluate.main(["--run", str(tabular_run), "--bootstrap", "20", "--subgroups"])
    assert "anatom_site_general" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give --data-dir"),
        (["--resume"], "holds no run"),
        (["--trees.trees", "0"], "must be at least 1"),
        (["--features.without", "colours"], "no topic; topics are"),
        (["--sampling.even"], "for networks"),
        (["--folds.n", "5000"], "must be"),
        (["--features.runs", "nowhere"], "not a run"),
    ],
)
def test_options_that_cannot_work_are_refused(bare, tmp_path, options, says, capsys):
    given = [] if options == [] or options == ["--resume"] else ["--data-dir", str(bare)]
    with pytest.raises(SystemExit) as stopped:
        tabular.main([*given, "--run-dir", str(tmp_path / "run"), *options])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_patients_known_for_malignant_rows_alone_are_refused(bare, tmp_path, capsys):
    table = pd.read_csv(bare / "train-metadata.csv", low_memory=False)
    pairs = np.arange((table["target"] == 1).sum()) // 2
    table["patient_id"] = table["isic_id"]
    table.loc[table["target"] == 1, "patient_id"] = [f"P{pair}" for pair in pairs]
    table.to_csv(tmp_path / "train-metadata.csv", index=False)
    with pytest.raises(SystemExit):
        tabular.main(["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert "tells the label" in said
    assert "--features.relative" in said
    small = ["--trees.trees", "2", "--trees.bag", "1"]
    tabular.main(["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"), "--features.relative", *small])


def test_without_lightgbm_one_line_says_how_to_install_it(bare, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(SystemExit) as stopped:
        tabular.main(["--data-dir", str(bare), "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "pip install 'jaxlesion[tabular]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_of_one_kind_is_not_gone_on_with_as_another(tabular_run, tiny_run):
    with pytest.raises(InputError, match="tabular run, without a network"):
        parse_train(["--run-dir", str(tabular_run)])
    with pytest.raises(InputError, match="is a network run"):
        parse_tabular(["--run-dir", str(tiny_run)])
    with pytest.raises(InputError, match="tabular run, without a network"):
        jaxlesion.load_run(tabular_run)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--image", "x.jpg"], "predicts the rows of a table"),
        (["--data-dir", "{}", "--tta", "8"], "--tta is for networks"),
        (["--data-dir", "{}", "--checkpoint", "best"], "--checkpoint is for networks"),
        (["--data-dir", "{}", "--fold", "none"], "by all folds"),
        (["--data-dir", "{}", "--part", "0/2"], "in one part"),
        (["--data-dir", "{}", "--explain", "-", "--out", "-"], "--explain"),
    ],
)
def test_options_of_networks_are_refused_for_trees(tabular_run, bare, options, says, capsys):
    with pytest.raises(SystemExit):
        predict.main(["--run", str(tabular_run), *(word.format(bare) for word in options)])
    assert says in capsys.readouterr().err


def test_a_run_of_an_unknown_kind_is_refused(tabular_run, tmp_path):
    folder = shutil.copytree(tabular_run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"kind": "forest"}))
    with pytest.raises(InputError, match="of kind 'forest' is not known"):
        Run.open(folder)


def test_hospitals_can_be_held_out(bare, few_trees, tmp_path):
    table = pd.read_csv(bare / "train-metadata.csv", low_memory=False)
    patients = {patient: "AB"[number % 2] for number, patient in enumerate(table["patient_id"].unique())}
    table["attribution"] = table["patient_id"].map(patients)
    table.to_csv(tmp_path / "train-metadata.csv", index=False)
    options = ["--folds.group", "attribution", "--folds.n", "2", *few_trees]
    tabular.main(["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"), *options])
    folds = pd.read_csv(tmp_path / "run" / "folds.csv").merge(table[["isic_id", "attribution"]])
    assert folds.groupby("attribution")["fold"].nunique().max() == 1
