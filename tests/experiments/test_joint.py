"""The joint network, on two folds of tiny runs."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `experiments` is not installed

from experiments import joint
from jaxlesion.boosting.features import Features
from jaxlesion.core.experts import StackConfig
from jaxlesion.data.predictions import read_predictions, write_predictions
from jaxlesion.inference.stacking import fit_stack


@pytest.mark.extra
def test_the_experiment_predicts_each_row_by_the_fold_that_held_it_out(tiny_run, tabular_run, tmp_path, monkeypatch):
    command = ["joint", "--images", str(tiny_run), "--trees", str(tabular_run), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--bootstrap", "0"])
    monkeypatch.setattr(joint, "SEEDS", {"table": 2, "late": 1, "joint": 1})
    monkeypatch.setattr(joint, "stacked", lambda *tables: tables[0])  # two folds of so few rows are separable
    joint.run()
    text = (tmp_path / "joint.md").read_text()
    assert len(text.splitlines()) == 2 + 8
    folds = pd.read_csv(tiny_run / "folds.csv").set_index("isic_id")["fold"]
    for kind in joint.SEEDS:
        table = pd.concat([read_predictions(tmp_path / f"{kind}-{fold}.csv") for fold in (0, 1)])
        assert (folds[table["isic_id"]].to_numpy() == table["fold"].to_numpy()).all()
        assert len(table) == folds.isin([0, 1]).sum()
    monkeypatch.setattr(joint, "train_fold", None)  # nothing is trained again
    joint.run()
    assert (tmp_path / "joint.md").read_text() == text


def test_columns_are_made_by_the_training_rows_alone():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 3)).astype(np.float32)
    values[::5, 1], values[:, 2] = np.nan, rng.integers(0, 3, 50)
    training = np.arange(40)
    table = joint.columns_of(Features(values, ["a", "b", "c"], [2]), training)
    assert table.shape == (50, 2 + 1 + 3)
    assert np.isfinite(table).all()
    np.testing.assert_allclose(table[training, :2].mean(0), 0, atol=1e-6)
    np.testing.assert_array_equal(table[:, 2], np.isnan(values[:, 1]))
    values[40:] *= 3
    changed = joint.columns_of(Features(values, ["a", "b", "c"], [2]), training)
    np.testing.assert_array_equal(changed[training], table[training])


def test_its_stack_is_the_program_s(tabular_run, tmp_path):
    other = shutil.copytree(tabular_run, tmp_path / "other")
    table = read_predictions(other / "oof.csv")
    table["prediction"] = np.random.default_rng(0).random(len(table)) / 2 + table["prediction"] / 2
    write_predictions(other / "oof.csv", table)
    run, _ = fit_stack(StackConfig((tabular_run, other), run_dir=tmp_path / "stack"))
    wanted = read_predictions(run.folder / "oof.csv").set_index("isic_id")["prediction"]
    found = joint.stacked(read_predictions(tabular_run / "oof.csv"), table).set_index("isic_id")["prediction"]
    np.testing.assert_allclose(found[wanted.index], wanted, rtol=1e-6)
