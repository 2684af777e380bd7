"""The comparison of recipes: what it trains, keeps and writes."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from experiments import recipes
from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.metrics import roc_auc


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory):
    """Compare two candidates, then again; return the options and the times the runs were written."""
    config = recipes.Recipes(
        demo, tmp_path_factory.mktemp("recipes"), ("few-negatives", "views"), resamples=20, shrink=True
    )
    written = []
    for _ in range(2):
        path = recipes.recipes(config)
        written.append({p: p.stat().st_mtime_ns for p in config.out.glob("runs/*/fold_*/oof.csv")})
    return config, path.read_text(), written


@pytest.mark.extra
def test_a_finished_fold_is_not_trained_again(made):
    config, _, written = made
    names = {path.relative_to(config.out / "runs").as_posix() for path in written[0]}
    assert names == {f"{run}-128-s0/fold_{fold}/oof.csv" for run in ("paper", "few-negatives") for fold in (0, 1)}
    assert written[0] == written[1]


@pytest.mark.extra
def test_each_candidate_has_a_line_and_the_first_its_values(made):
    config, text, _ = made
    lines = {one["name"]: one for one in json.loads((config.out / "recipes.json").read_text())}
    assert list(lines) == ["paper", "few-negatives", "views"]
    table = pd.read_csv(config.out / "runs" / "paper-128-s0" / "oof.csv")
    each = [roc_auc(rows["target"], rows["prediction"]) for _, rows in table.groupby("fold")]
    assert min(each) <= lines["paper"]["values"]["roc_auc"][0] <= max(each)
    assert lines["paper"]["differences"] == {}
    assert lines["paper"]["core_seconds"] > 0
    assert lines["views"]["core_seconds"] is None  # the same runs
    rows = [row for row in text.splitlines() if row.startswith("| ") and "`" in row]
    assert [row.split(" | ")[1] for row in rows] == ["`paper`", "`few-negatives`", "`views`"]
    assert "used for choosing" in text
    assert "nothing was chosen on" not in text  # no such folds here
    assert str(config.data_dir) not in text


@pytest.mark.extra
def test_runs_side_by_side_are_those_one_after_the_other(made, tmp_path):
    config, _, written = made
    recipes.recipes(dataclasses.replace(config, out=tmp_path, jobs=2))
    for path in written[0]:
        assert (tmp_path / path.relative_to(config.out)).read_text() == path.read_text()


def test_the_same_seed_twice_is_that_seed():
    table = pd.DataFrame(
        {"isic_id": list("abcd"), "patient_id": [None, "p", "p", "q"], "fold": [0, 0, 1, 1], "target": [0, 1, 0, 1]}
    )
    both = recipes.stacked([table, table])
    assert both["isic_id"].is_unique
    assert both["fold"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert both["patient_id"].tolist() == ["a", "p", "p", "q"] * 2


def test_candidates_are_commands_that_training_takes(demo, tmp_path):
    config = recipes.Recipes(demo, tmp_path)
    for name in recipes.CANDIDATES:
        wanted = recipes.training(config, name, 3)
        assert (wanted.data.seed, wanted.folds.stratify, wanted.folds.seed) == (3, True, 0)
    assert recipes.training(config, "views", 0) == recipes.training(config, "paper", 0)


@pytest.mark.extra
def test_one_model_of_two_equal_seeds_is_that_model(made, monkeypatch):
    config, *_ = made
    training = recipes.training
    monkeypatch.setattr(recipes, "training", lambda config, name, seed: training(config, name, 0))
    twice = dataclasses.replace(config, seeds=(0, 1))
    plain = recipes.predictions(config, "views")[0]
    for over_seeds in ("weights", "predictions"):
        candidate = dataclasses.replace(recipes.CANDIDATES["views"], over_seeds=over_seeds)
        monkeypatch.setattr(recipes, "CANDIDATES", recipes.CANDIDATES | {"both": candidate})
        tables = recipes.predictions(twice, "both")
        assert len(tables) == 2
        for table in tables:
            np.testing.assert_allclose(table["prediction"], plain["prediction"], rtol=1e-5)


def test_wrong_names_and_a_single_fold_are_refused(demo, tmp_path):
    with pytest.raises(InputError, match="the candidates are paper, "):
        recipes.recipes(recipes.Recipes(demo, tmp_path, only=("mixupp",)))
    with pytest.raises(InputError, match="two folds or more"):
        recipes.recipes(recipes.Recipes(demo, tmp_path, fold=(0,)))
