"""Held-out hospitals: training uses no lesion from the hospitals of its fold."""

import pandas as pd
import pytest

from jaxlesion import train
from jaxlesion.data.folds import training_rows
from jaxlesion.runs.store import Run


@pytest.fixture(scope="module")
def run(demo, tiny_command, tmp_path_factory) -> Run:
    """Return a run whose fold 1 held out hospitals."""
    folder = tmp_path_factory.mktemp("hospitals") / "run"
    options = ["--folds.group", "attribution", "--folds.n", "3", "--epochs", "1", "--fold", "1"]
    train.main([*tiny_command, *options, "--run-dir", str(folder)])
    return Run.open(folder)


def test_a_hospital_is_in_one_fold_and_its_lesions_are_not_trained_on(run, demo):
    hospital = pd.read_csv(demo / "train-metadata.csv").set_index("isic_id")["attribution"]
    assert hospital.nunique() > 3  # so that some fold has several
    folds = run.folds_table()
    names = folds["isic_id"].map(hospital)
    assert folds.groupby(names)["fold"].nunique().max() == 1
    trained = training_rows(folds, 1, run.config.sampling, run.config.data.seed)
    assert not set(names.iloc[trained]) & set(names[folds["fold"] == 1])


def test_all_that_was_held_out_is_predicted_and_nothing_else(run):
    folds, oof = run.folds_table(), pd.read_csv(run.folder / "oof.csv")
    assert oof["isic_id"].tolist() == folds["isic_id"][folds["fold"] == 1].tolist()
    assert [f.b for f in run.calibration().folds] == [None]  # no other fold to fit it to
