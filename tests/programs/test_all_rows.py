"""`train --fold none` trains one more model, on all rows: it resumes exactly, predicts, and is never scored."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from refusals import refusal

import jaxlesion
from jaxlesion import evaluate, predict, report, train
from jaxlesion.core.config import ALL_ROWS
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.demo import write_demo
from jaxlesion.data.folds import training_pool, training_rows, validation_rows
from jaxlesion.data.sources import open_images
from jaxlesion.evaluate import EvaluateConfig
from jaxlesion.evaluation.calibration import calibrate
from jaxlesion.model.port import to_timm
from jaxlesion.model.registry import build_model
from jaxlesion.model.weights import read_variables
from jaxlesion.runs.store import Run
from jaxlesion.ui.options import parse_train

EVERY_STEP = ("--checkpoint.every-minutes", "1e-9")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_command):
    """A run that was begun by `--fold none`, with a moving average."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train.main([*tiny_command, "--optim.ema", "0.9", "--run-dir", str(folder), "--fold", "none"])
    return folder


@pytest.fixture(scope="module")
def both(tiny_all_rows):
    """The tiny run with folds 0 and 1, and then the model of all rows."""
    return tiny_all_rows


def predicted(run, data, out, *argv) -> pd.DataFrame:
    predict.main(["--run", str(run), "--data-dir", str(data), "--out", str(out), *argv])
    return pd.read_csv(out)


def by_hand(run, data) -> np.ndarray:
    """Return the test rows' uncorrected probabilities through the Python API alone."""
    model, variables = jaxlesion.load_run(run, "none")
    ids = pd.read_csv(data / "test-metadata.csv")["isic_id"]
    with open_images(data / "test-image.hdf5") as images:
        pixels = np.stack([resize(decode(images.read(i), i), 32) for i in ids])
    logits = model.apply(variables, jaxlesion.normalise(pixels, model.variant))
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)[:, 0]))


def test_it_has_all_malignant_rows_the_sampling_of_the_run_and_no_validation(both):
    run = Run.open(both)
    lesions, sampled = run.folds_table(), (ALL_ROWS, run.config.sampling, run.config.data.seed)
    rows = training_rows(lesions, *sampled)
    target = lesions["target"].to_numpy()
    assert target[rows].sum() == target.sum() == len(rows) - target.sum()  # one benign row for each malignant one
    assert len(np.unique(lesions["fold"].to_numpy()[rows])) == 5
    np.testing.assert_array_equal(rows, training_pool(lesions, *sampled))
    assert len(validation_rows(lesions, *sampled)) == 0
    trained = run.trained_rows([ALL_ROWS])["isic_id"]
    assert trained.tolist() == lesions["isic_id"].iloc[rows].tolist()
    assert set(trained) <= set(run.pixels())


def test_its_folder_has_weights_and_records_without_validation(both, tiny_run):
    folder = Run.open(both).fold(ALL_ROWS)
    assert folder.folder.name == "fold_none"
    assert folder.finished
    assert not folder.oof.exists()
    assert [set(record) for record in folder.metrics()] == [{"epoch", "step", "loss"}] * 2
    assert folder.model_step() == folder.metrics()[-1]["step"]
    for name in ("oof.csv", "folds.csv", "fold_0/oof.csv"):
        assert (both / name).read_bytes() == (tiny_run / name).read_bytes()
    old, new = (json.loads((run / "calibration.json").read_text()) for run in (tiny_run, both))
    assert old | {"all_rows": new["all_rows"]} == new


def test_its_weights_are_the_moving_average_in_timms_names(alone):
    run = Run.open(alone)
    _, average = jaxlesion.load_run(alone)
    stored, notes = read_variables(build_model(run.config.model), run.fold(ALL_ROWS).model)
    assert not notes
    for name, value in to_timm(average).items():
        np.testing.assert_array_equal(to_timm(stored)[name], value)


def test_without_its_checkpoints_it_predicts_the_same(both, demo, tmp_path):
    copy = shutil.copytree(both, tmp_path / "copy")
    shutil.rmtree(copy / "fold_none" / "checkpoints")
    tables = [predicted(run, demo, tmp_path / "p.csv", "--fold", "none") for run in (both, copy)]
    pd.testing.assert_frame_equal(*tables)


class Cut(Exception):
    pass


@pytest.mark.parametrize("event", ["saved", "predicting"])
def test_cut_off_in_mid_training_it_resumes_to_the_same_bytes(event, alone, tiny_command, tmp_path):
    """`predicting` is after the last step, before the weights are written."""
    step = Run.open(alone).fold(ALL_ROWS).metrics()[0]["step"] + 1

    def cut(happened, **about):
        if happened == event and about.get("step", step) == step:
            raise Cut

    folder = tmp_path / "run"
    command = [*tiny_command, "--optim.ema", "0.9", "--run-dir", str(folder), "--fold", "none", *EVERY_STEP]
    with pytest.raises(Cut):
        train.main(command, cut)
    assert not (folder / "fold_none" / "model.safetensors").exists()
    train.main(["--run-dir", str(folder), "--resume"])
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (folder / "fold_none" / name).read_bytes() == (alone / "fold_none" / name).read_bytes()


def test_before_the_folds_it_is_the_same_and_its_epochs_have_a_loss_alone(both, tiny_command, tmp_path, capsys):
    folder = tmp_path / "run"
    train.main([*tiny_command, "--run-dir", str(folder), "--fold", "none"])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("fold none epoch")]
    assert len(lines) == 2
    assert all("loss" in line and "AUC" not in line for line in lines)
    assert "fold none: validating" not in err
    assert "fold_none/model.safetensors" in "".join(out.split())
    train.main(["--run-dir", str(folder), "--fold", "0", "1"])
    for name in ("oof.csv", "calibration.json", "folds.csv", "fold_none/model.safetensors"):
        assert (folder / name).read_bytes() == (both / name).read_bytes()


def test_resuming_means_it_once_all_begun_folds_are_finished(both, alone, tmp_path):
    copy = shutil.copytree(both, tmp_path / "copy")
    (copy / "fold_none" / "model.safetensors").unlink()
    assert parse_train(["--run-dir", str(copy), "--resume"]).fold == "none"
    (copy / "fold_1" / "oof.csv").unlink()
    assert parse_train(["--run-dir", str(copy), "--resume"]).fold == (0, 1)
    assert parse_train(["--run-dir", str(alone), "--resume"]).fold == "none"


def test_predict_takes_the_folds_unless_there_is_none_or_it_is_asked_for(both, alone, demo, tmp_path):
    step = Run.open(both).fold(ALL_ROWS).model_step()
    by_folds = predicted(both, demo, tmp_path / "p.csv")
    assert by_folds["model"].str.startswith("mean of fold_0/").all()
    pd.testing.assert_frame_equal(by_folds, predicted(both, demo, tmp_path / "p.csv", "--fold", "all"))
    table = predicted(both, demo, tmp_path / "p.csv", "--fold", "none")
    assert (table["model"].str.split(" by ").str[0] == f"fold_none/{step}").all()  # " by onnxruntime ..." where it did
    assert table["fold"].isna().all()
    np.testing.assert_allclose(table["prediction"], by_hand(both, demo), atol=1e-6)
    assert predicted(alone, demo, tmp_path / "p.csv")["model"].str.startswith("fold_none/").all()


def test_its_calibration_is_the_folds_line_with_its_own_prior(both, demo, tmp_path):
    run = Run.open(both)
    stored, target = run.calibration(), run.folds_table()["target"]
    kept, benign = target.sum(), (target == 0).sum()  # one benign row for each malignant one
    assert (stored.all_rows.negatives_kept, stored.all_rows.negatives) == (kept, benign)
    assert stored.all_rows.offset == pytest.approx(np.log(kept / benign))
    table = predicted(both, demo, tmp_path / "p.csv", "--fold", "none", "--calibrated")
    expected = calibrate(by_hand(both, demo), stored.all_rows.offset, stored.a, stored.b)
    np.testing.assert_allclose(table["prediction"], expected, atol=1e-6)


def test_rows_that_it_alone_was_trained_on_are_counted_for_it_alone(both, demo, tmp_path, capsys):
    run = Run.open(both)
    folds, whole = (set(run.trained_rows(k)["isic_id"]) for k in (run.finished_folds(), [ALL_ROWS]))
    only = sorted(whole - folds)
    data = tmp_path / "test-image"
    data.mkdir()
    with open_images(demo / "train-image.hdf5") as images:
        for isic_id in only:
            (data / f"{isic_id}.jpg").write_bytes(images.read(isic_id))
        (data / "renamed.jpg").write_bytes(images.read(only[0]))
    for fold, said in (("none", True), ("all", False)):
        predicted(both, data, tmp_path / "p.csv", "--fold", fold)
        text = " ".join("".join(capsys.readouterr()).split())
        assert (f"{len(only)} of these rows were trained on, by their ids" in text) == said
        assert ("1 of these images have exactly the pixels of one that was trained on" in text) == said


def test_another_labelled_set_is_evaluated(alone, tmp_path):
    other = write_demo(tmp_path / "fresh", patients=8, lesions=40, malignant=9, test_lesions=2, seed=5)
    table = pd.read_csv(other / "train-metadata.csv", dtype=str)
    table["patient_id"] = "OTHER_" + table["patient_id"]
    table["isic_id"] = "OTHER_" + table["isic_id"]
    folder = tmp_path / "train-image" / "image"
    folder.mkdir(parents=True)
    with open_images(other / "train-image.hdf5") as images:
        for isic_id in table["isic_id"]:
            (folder / f"{isic_id}.jpg").write_bytes(images.read(isic_id.removeprefix("OTHER_")))
    table.to_csv(tmp_path / "train-metadata.csv", index=False)
    found = evaluate.evaluate(EvaluateConfig(run=alone, data_dir=tmp_path, bootstrap=0, out=tmp_path / "out.csv"))
    assert found["external"]["all rows"]["n"].value == 40
    assert pd.read_csv(tmp_path / "out.csv")["model"].str.startswith("fold_none/").all()


def test_what_needs_held_out_rows_is_refused_in_one_line(both, alone, tiny_run, demo, capsys):
    for program in (evaluate, report):
        assert "held no rows out: train folds by train --fold all" in refusal(capsys, program, "--run", alone)
    data = ("--data-dir", demo)
    assert "no fold is finished" in refusal(capsys, predict, "--run", alone, *data, "--calibrated")
    assert "train --fold none" in refusal(capsys, predict, "--run", tiny_run, *data, "--fold", "none")
    assert "held no rows out" in refusal(capsys, predict, "--run", alone, *data, "--fold", "all")
    best = ("--fold", "none", "--checkpoint", "best")
    assert "use the last one" in refusal(capsys, predict, "--run", both, *data, *best)
    assert "fold none is finished" in refusal(capsys, train, "--run-dir", both, "--fold", "none")


def test_a_model_that_is_not_what_training_wrote_is_named(both, demo, tmp_path, capsys):
    copy = shutil.copytree(both, tmp_path / "copy")
    shutil.rmtree(copy / "fold_none" / "checkpoints")
    path = copy / "fold_none" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in refusal(capsys, predict, "--run", copy, "--data-dir", demo, "--fold", "none")
