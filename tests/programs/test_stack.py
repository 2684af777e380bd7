import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from scipy.stats import rankdata

from jaxlesion import evaluate, predict, report, stack, tabular, train
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import StackConfig
from jaxlesion.data.predictions import read_predictions
from jaxlesion.inference.stacking import fit_stack, rank_among
from jaxlesion.runs.store import Run


@pytest.fixture(scope="module")
def image_run(tmp_path_factory, tiny_command):
    """Return a run of the tiny network with all folds finished."""
    folder = tmp_path_factory.mktemp("runs") / "images"
    train.main([*tiny_command, "--epochs", "1", "--fold", "all", "--run-dir", str(folder)])
    return folder


@pytest.fixture(scope="module", params=["rank", "logistic"])
def stacked(request, tmp_path_factory, image_run, tabular_run):
    folder = tmp_path_factory.mktemp("stacks") / request.param
    command = ["--runs", str(image_run), str(tabular_run), "--method", request.param, "--run-dir", str(folder)]
    stack.main(command)
    return Run.open(folder)


def members(stacked) -> list[pd.DataFrame]:
    ids = read_predictions(stacked.folder / "oof.csv")["isic_id"]
    return [read_predictions(folder / "oof.csv").set_index("isic_id").loc[ids] for folder in stacked.config.runs]


def test_out_of_fold_predictions_are_what_they_should_be(stacked):
    table, of = read_predictions(stacked.folder / "oof.csv"), members(stacked)
    fold, target = table["fold"].to_numpy(int), table["target"].to_numpy(int)
    expected = np.empty(len(table))
    for k in range(5):
        inside = fold == k
        if stacked.config.method == "rank":
            ranks = [(rankdata(one["prediction"][inside]) - 0.5) / inside.sum() for one in of]
            expected[inside] = np.mean(ranks, axis=0)
        else:
            from sklearn.linear_model import LogisticRegression

            scores = np.stack([logit(one["prediction"].to_numpy()) for one in of], 1)
            fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(scores[~inside], target[~inside])
            expected[inside] = fit.predict_proba(scores[inside])[:, 1]
    np.testing.assert_allclose(table["prediction"], expected, atol=1e-5)
    assert (of[0]["fold"].to_numpy() == fold).all()


def test_evaluate_and_report_take_a_stack(stacked, tmp_path, capsys):
    evaluate.main(["--run", str(stacked.folder), "--bootstrap", "0", "--out", str(tmp_path / "again.csv")])
    again, first = read_predictions(tmp_path / "again.csv"), read_predictions(stacked.folder / "oof.csv")
    np.testing.assert_allclose(again["prediction"], first["prediction"], atol=1e-12)
    assert ("means of ranks" in capsys.readouterr().out) == (stacked.config.method == "rank")
    report.main(["--run", str(stacked.folder), "--out", str(tmp_path / "r"), "--bootstrap", "20"])
    assert "stack of 2 runs" in (tmp_path / "r" / "model_card.md").read_text()


def test_new_lesions_are_predicted_by_all_members(stacked, demo, tmp_path):
    out = tmp_path / "p.csv"
    predict.main(["--run", str(stacked.folder), "--data-dir", str(demo), "--out", str(out), "--tta", "8"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv"]
    table, scores = pd.read_csv(out), []
    for number, folder in enumerate(stacked.config.runs):
        own = tmp_path / f"{number}.csv"
        views = ["--tta", "8"] if number == 0 else []
        predict.main(["--run", str(folder), "--data-dir", str(demo), "--out", str(own), *views])
        scores.append(logit(pd.read_csv(own)["prediction"].to_numpy()))
    if stacked.config.method == "rank":
        known = [logit(one["prediction"].to_numpy()) for one in members(stacked)]
        expected = np.mean([rank_among(s, k) for s, k in zip(scores, known, strict=True)], axis=0)
    else:
        fits = [json.loads((stacked.folder / f"fold_{k}" / "stack.json").read_text())["coefficients"] for k in range(5)]
        odds = [np.stack(scores, 1) @ fit[:-1] + fit[-1] for fit in np.array(fits)]
        expected = np.mean([1 / (1 + np.exp(-one)) for one in odds], axis=0)
    np.testing.assert_allclose(table["prediction"], expected, rtol=1e-5)


def test_the_rank_among_known_values_is_inside_0_and_1():
    known = np.array([3.0, 1.0, 2.0, 2.0])
    assert rank_among(np.array([0.0, 1.0, 2.0, 2.5, 9.0]), known).tolist() == [0.125, 0.125, 0.5, 0.75, 0.875]


def test_logits_of_images_as_features_of_trees(image_run, demo, few_trees, tmp_path):
    given = ["--features.runs", str(image_run), "--folds.file", str(image_run / "folds.csv")]
    tabular.main(["--data-dir", str(demo), "--run-dir", str(tmp_path / "both"), *given, *few_trees])
    evaluate.main(["--run", str(tmp_path / "both"), "--bootstrap", "0", "--out", str(tmp_path / "again.csv")])
    again, first = read_predictions(tmp_path / "again.csv"), read_predictions(tmp_path / "both" / "oof.csv")
    np.testing.assert_allclose(again["prediction"], first["prediction"], atol=1e-9)
    predict.main(["--run", str(tmp_path / "both"), "--data-dir", str(demo), "--out", str(tmp_path / "p.csv")])
    assert len(pd.read_csv(tmp_path / "p.csv")) == 5


def test_other_folds_are_refused_since_they_leak(image_run, demo, few_trees, tmp_path, capsys):
    other = tmp_path / "other"
    tabular.main(["--data-dir", str(demo), "--run-dir", str(other), "--folds.seed", "3", *few_trees])
    with pytest.raises(
        InputError, match=r"so a prediction would have seen its label; train --folds\.file .*folds\.csv"
    ):
        fit_stack(StackConfig((image_run, other), run_dir=tmp_path / "stack"))
    command = ["--data-dir", str(demo), "--run-dir", str(tmp_path / "third"), *few_trees]
    with pytest.raises(SystemExit):
        tabular.main([*command, "--features.runs", str(image_run), "--folds.seed", "3"])
    assert "would have seen its label" in capsys.readouterr().err
    assert not (tmp_path / "stack").exists()
    assert not (tmp_path / "third" / "config.json").exists()


def test_runs_that_cannot_be_stacked_are_refused(image_run, tiny_run, tabular_run, tmp_path):
    for runs, says in (
        ((image_run,), "two or more"),
        ((image_run, tiny_run), "lacks .* of 120 lesions"),
        ((image_run, tmp_path), "is not a run"),
    ):
        with pytest.raises(InputError, match=says):
            fit_stack(StackConfig(runs, run_dir=tmp_path / "stack"))
    (tmp_path / "notes.txt").write_text("mine")
    for folder, says in ((tmp_path, "exists and is not a run"), (tabular_run, "is a run already")):
        with pytest.raises(InputError, match=says):
            fit_stack(StackConfig((image_run, tabular_run), run_dir=folder))


def test_a_damaged_stack_is_refused(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "stack")
    (folder / "fold_2" / "stack.json").write_text('{"coefficients": [1]}')
    with pytest.raises(SystemExit):
        evaluate.main(["--run", str(folder), "--bootstrap", "0"])
