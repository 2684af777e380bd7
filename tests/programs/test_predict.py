import json
import os
import shutil
from pathlib import Path

import cv2
import h5py
import jax
import numpy as np
import pandas as pd
import pytest

import jaxlesion
from jaxlesion import evaluate, predict, train
from jaxlesion.core.errors import InputError
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.demo import write_demo
from jaxlesion.data.open import open_dataset
from jaxlesion.data.predictions import COLUMNS
from jaxlesion.data.sources import open_images
from jaxlesion.evaluate import EvaluateConfig
from jaxlesion.evaluation.calibration import calibrate, fit_line, logit
from jaxlesion.predict import PredictConfig
from jaxlesion.runs.store import Run


@pytest.fixture(scope="module")
def table(tiny_run, demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    out, submission = folder / "predictions.csv", folder / "submission.csv"
    predict.main(
        [*("--run", str(tiny_run), "--data-dir", str(demo), "--out", str(out)), *("--submission", str(submission))]
    )
    return pd.read_csv(out), pd.read_csv(submission)


def by_hand(run, fold: int, pixels: np.ndarray) -> np.ndarray:
    """Return probabilities of decoded images, [images], through the Python API alone."""
    model, variables = jaxlesion.load_run(run, fold)
    logits = jax.jit(model.apply)(variables, jaxlesion.normalise(pixels, model.variant))
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)[:, 0]))


def test_predictions_are_the_mean_of_the_folds_in_the_order_of_the_test_file(table, tiny_run, demo):
    ids = pd.read_csv(demo / "test-metadata.csv")["isic_id"]
    predictions, submission = table
    assert list(predictions.columns) == list(COLUMNS)
    assert predictions["isic_id"].tolist() == submission["isic_id"].tolist() == ids.tolist()
    assert predictions["fold"].isna().all()
    assert predictions["target"].isna().all()
    with open_images(demo / "test-image.hdf5") as images:
        pixels = np.stack([resize(decode(images.read(i), i), 32) for i in ids])
    expected = (by_hand(tiny_run, 0, pixels) + by_hand(tiny_run, 1, pixels)) / 2
    np.testing.assert_allclose(predictions["prediction"], expected, atol=1e-6)
    np.testing.assert_array_equal(submission["target"], predictions["prediction"])


def test_rows_that_were_trained_on_are_counted_by_id_and_by_pixels(tiny_run, demo, tmp_path, capsys):
    """Rename trained images and save them otherwise: their pixels give them away."""
    run = Run.open(tiny_run)
    trained, held = run.trained_rows(run.finished_folds())["isic_id"], run.folds_table()["isic_id"]
    some, never = trained.iloc[:3].tolist(), sorted(set(held) - set(trained))[:2]
    folder = tmp_path / "test-image"
    folder.mkdir()
    with open_images(demo / "train-image.hdf5") as images:
        files = {some[0]: some[0], "new_1": some[1], "new_2": some[2], **dict(zip(never, never, strict=True))}
        for name, isic_id in files.items():
            cv2.imwrite(str(folder / f"{name}.png"), decode(images.read(isic_id), isic_id)[..., ::-1])
    for cached in ([], ["--cache"]):
        out = str(tmp_path / "out.csv")
        predict.main(["--run", str(tiny_run), "--data-dir", str(folder), "--out", out, *cached])
        text = " ".join("".join(capsys.readouterr()).split())
        assert f"1 of these rows were trained on, by their ids ({some[0]}" in text
        assert "2 of these images have exactly the pixels of one that was trained on under another id (new_1" in text


def test_decoded_images_are_kept_where_that_is_asked_for(table, tiny_run, demo, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.chdir(tmp_path)
    argv = ["--run", str(tiny_run), "--data-dir", str(demo)]
    predict.main([*argv, "--out", "none.csv"])
    assert not Path("ckpt").exists()
    predict.main([*argv, "--cache", "--out", "first.csv"])
    monkeypatch.setattr("jaxlesion.data.batches.decode", refuse)
    predict.main([*argv, "--cache", "--out", "second.csv"])
    for name in ("none.csv", "first.csv", "second.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(name), table[0])


def test_single_images_have_a_line_each(table, tiny_run, demo, tmp_path, capsys):
    ids = table[0]["isic_id"].tolist()
    with h5py.File(demo / "test-image.hdf5") as images:
        for isic_id in ids:
            (tmp_path / f"{isic_id}.jpg").write_bytes(images[isic_id][()])
    files = [str(tmp_path / f"{isic_id}.jpg") for isic_id in ids]
    predict.main(["--run", str(tiny_run), "--image", *files])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert [path for path, _ in lines] == files
    np.testing.assert_allclose([float(p) for _, p in lines], table[0]["prediction"], atol=1e-6)


# calibrated


def test_a_run_stores_what_calibrates_it(tiny_run):
    stored = json.loads((tiny_run / "calibration.json").read_text())
    folds, oof = pd.read_csv(tiny_run / "folds.csv"), pd.read_csv(tiny_run / "oof.csv")
    z = logit(oof["prediction"])
    for k, of_fold in enumerate(stored["folds"]):
        outside, held_out = folds[folds["fold"] != k], folds[folds["fold"] == k]
        kept = outside["target"].sum()  # one benign row for each malignant one
        assert (of_fold["fold"], of_fold["model"]) == (k, oof["model"][oof["fold"] == k].iloc[0])
        assert (of_fold["rows"], of_fold["positives"]) == (len(held_out), held_out["target"].sum())
        assert (of_fold["negatives_kept"], of_fold["negatives"]) == (kept, (outside["target"] == 0).sum())
        assert of_fold["offset"] == pytest.approx(np.log(kept / of_fold["negatives"]))
        z[oof["fold"] == k] += of_fold["offset"]
    assert [f["fold"] for f in stored["folds"]] == [0, 1]
    assert (stored["a"], stored["b"]) == pytest.approx(fit_line(oof["target"], z)[:2])
    other = (oof["fold"] == 1).to_numpy()
    first = stored["folds"][0]
    assert (first["a"], first["b"]) == pytest.approx(fit_line(oof["target"][other], z[other])[:2])


def test_calibrated_predictions_are_those_of_the_folds_corrected(table, tiny_run, demo, tmp_path):
    out = tmp_path / "calibrated.csv"
    predict.main(["--run", str(tiny_run), "--data-dir", str(demo), "--out", str(out), "--calibrated"])
    calibrated, uncorrected = pd.read_csv(out), table[0]
    assert calibrated["model"].unique().tolist() == [f"{uncorrected['model'][0]}, calibrated"]
    stored = Run.open(tiny_run).calibration()
    with open_images(demo / "test-image.hdf5") as images:
        pixels = np.stack([resize(decode(images.read(i), i), 32) for i in calibrated["isic_id"]])
    expected = [calibrate(by_hand(tiny_run, f.fold, pixels), f.offset, stored.a, stored.b) for f in stored.folds]
    np.testing.assert_allclose(calibrated["prediction"], np.mean(expected, 0), atol=1e-6)
    assert (calibrated["prediction"] < uncorrected["prediction"]).all()  # half of the sampled rows were malignant


def test_a_run_without_calibration_says_so_and_gets_it_by_resuming(tiny_run, demo, tmp_path, capsys):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / "calibration.json").unlink()
    (folder / "oof.csv").unlink()
    with pytest.raises(SystemExit) as left:
        predict.main(["--run", str(folder), "--data-dir", str(demo), "--calibrated"])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has no calibration.json" in error
    train.main(["--run-dir", str(folder), "--resume"])
    for name in ("calibration.json", "oof.csv"):
        assert (folder / name).read_bytes() == (tiny_run / name).read_bytes()


def test_an_earlier_calibration_is_refused_in_one_line_and_renewed_from_the_runs_predictions(
    tiny_run, demo, tmp_path, capsys
):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / "calibration.json").write_text(json.dumps({"temperature": 1.3, "folds": []}))
    with pytest.raises(SystemExit):
        predict.main(["--run", str(folder), "--data-dir", str(demo), "--calibrated"])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "train --resume" in error
    evaluate.main(["--run", str(folder), "--bootstrap", "0"])
    assert "no calibrated figures: " in capsys.readouterr().out
    train.main(["--run-dir", str(folder), "--resume"])
    assert (folder / "calibration.json").read_bytes() == (tiny_run / "calibration.json").read_bytes()


def test_another_checkpoint_than_the_calibrated_one_is_refused(tiny_run, demo, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    stored = json.loads((folder / "calibration.json").read_text())
    stored["folds"][1]["model"] = "fold_1/7"
    (folder / "calibration.json").write_text(json.dumps(stored))
    config = PredictConfig(run=folder, data_dir=demo, out=tmp_path / "out.csv", calibrated=True)
    with pytest.raises(InputError, match=r"fitted on fold_0/\d+ fold_1/7, not on fold_1/"):
        predict.predict(config)
    assert not config.out.exists()


@pytest.mark.parametrize("argv", [[], ["--image", "absent.jpg"], ["--image", "a.jpg", "--data-dir", "d"]])
def test_what_cannot_be_predicted_is_one_line(argv, tiny_run, capsys):
    with pytest.raises(SystemExit) as left:
        predict.main(["--run", str(tiny_run), *argv])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_data_that_has_moved_is_evaluated_as_before(tiny_run, demo, tmp_path):
    shutil.copytree(demo, tmp_path / "moved")
    moved = evaluate.evaluate(EvaluateConfig(run=tiny_run, data_dir=tmp_path / "moved"))
    assert moved == evaluate.evaluate(EvaluateConfig(run=tiny_run))


def test_data_that_has_changed_is_refused(tiny_run, demo, tmp_path):
    folder = shutil.copytree(demo, tmp_path / "changed")
    with open(folder / "train-metadata.csv", "a") as file:
        file.write("\n")
    with pytest.raises(InputError, match="other metadata"):
        evaluate.evaluate(EvaluateConfig(run=tiny_run, data_dir=folder))


def renamed(folder, tmp_path, patients: bool):
    """Copy a folder of lesions with new ids, and with new patients too if `patients`."""
    target = tmp_path / "other"
    shutil.copytree(folder, target)
    table = pd.read_csv(target / "train-metadata.csv", dtype=str)
    with h5py.File(folder / "train-image.hdf5") as old, h5py.File(target / "train-image.hdf5", "w") as new:
        for isic_id in table["isic_id"]:
            new[f"OTHER_{isic_id}"] = old[isic_id][()]
    table["isic_id"] = "OTHER_" + table["isic_id"]
    if patients:
        table["patient_id"] = "OTHER_" + table["patient_id"]
    table.to_csv(target / "train-metadata.csv", index=False)
    return target


def test_another_labelled_set_is_predicted_by_the_mean_of_the_folds_and_marked_so(tiny_run, tmp_path, capsys):
    other = write_demo(tmp_path / "fresh", patients=8, lesions=40, malignant=9, test_lesions=2, seed=5)
    folder = renamed(other, tmp_path, patients=True)
    evaluate.main(["--run", str(tiny_run), "--data-dir", str(folder), "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    assert "external" in printed
    assert "mean of fold_0" in printed
    content = json.loads((tmp_path / "figures.json").read_text())
    out = tmp_path / "calibrated.csv"
    for name in ("image.hdf5", "metadata.csv"):
        (folder / f"test-{name}").write_bytes((folder / f"train-{name}").read_bytes())
    predict.main(["--run", str(tiny_run), "--data-dir", str(folder), "--out", str(out), "--calibrated"])
    expected = pd.read_csv(out)["prediction"].sum() / pd.read_csv(folder / "train-metadata.csv")["target"].sum()
    assert content["calibration"]["of"] == "calibrated predictions"
    assert content["calibration"]["expected_over_observed"]["value"] == pytest.approx(expected, rel=1e-5)
    figures = evaluate.evaluate(EvaluateConfig(run=tiny_run, data_dir=folder))
    assert figures["external"]["all rows"]["n"].value == 40


def test_a_set_that_shares_patients_with_the_training_data_is_refused(tiny_run, demo, tmp_path):
    with pytest.raises(InputError, match="patients that"):
        evaluate.evaluate(EvaluateConfig(run=tiny_run, data_dir=renamed(demo, tmp_path, patients=False)))


def test_a_line_for_each_file_given_in_that_order_and_nothing_else(tiny_run, demo, tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    images = open_dataset(demo).images
    for name, isic_id in zip("ab", sorted(images.ids), strict=False):
        Path(f"{name}.jpg").write_bytes(images.read(isic_id))
    Path("\udcff\n.jpg").write_bytes(Path("b.jpg").read_bytes())
    given = ["b.jpg", "a.jpg", "./a.jpg", "b.jpg", "\udcff\n.jpg"]
    predict.main(["--run", str(tiny_run), "--image", *given, "--out", "p.csv"])
    out, err = capfdbinary.readouterr()
    lines = [os.fsdecode(line).split("\t") for line in out.splitlines()]
    assert [name for name, _ in lines] == [*given[:-1], "\udcff\\n.jpg"]
    values = [value for _, value in lines]
    assert values[0] == values[3] == values[4] != values[1] == values[2]
    assert err.startswith(b"5 predictions in p.csv")
    predict.main(["--run", str(tiny_run), "--image", *given, "--out", "-", "--submission", "s.csv"])
    assert capfdbinary.readouterr().out == Path("p.csv").read_bytes()
    predict.main(["--run", str(tiny_run), "--data-dir", str(demo), "--out", "-", "--submission", "s.csv"])
    rows = [line.split(",") for line in capfdbinary.readouterr().out.decode().splitlines()]
    assert Path("s.csv").read_text().splitlines()[1:] == [f"{row[0]},{row[4]}" for row in rows[1:]]
    assert len(rows) == 6
