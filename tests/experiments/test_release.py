"""A released model predicts as its run does, to float16's precision, and holds no label, patient or path."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refusals import refusal
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `experiments` is not installed

import jaxlesion
from experiments import release
from jaxlesion import duplicates, evaluate, knn, predict, report, train
from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import read_predictions
from jaxlesion.data.sources import open_images
from jaxlesion.evaluation.summary import POOLED, EvalOptions, summarise_run
from jaxlesion.reporting.pictures import cell
from jaxlesion.runs import released as place
from jaxlesion.runs.store import Run

FILES = {
    *("README.md", "SHA256SUMS", "calibration.json", "config.json", "manifest.json", "pixels.csv"),
    "fold_none/model.safetensors",
}


@pytest.fixture(scope="module")
def released(tiny_all_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "ckpt" / "best-b1"
    note = ("--weights-note", "They are random.")
    release.main(["--run", str(tiny_all_rows), "--out", str(folder), "--bootstrap", "20", *note])
    return folder


@pytest.fixture
def in_clone(released, monkeypatch):
    """The released model where a clone has it."""
    monkeypatch.setattr(place, "FOLDER", released)
    return released


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def predicted(data, out, *argv) -> pd.DataFrame:
    predict.main([*map(str, ("--data-dir", data, "--out", out, *argv))])
    return pd.read_csv(out)


def test_it_holds_its_files_and_their_digests_alone(released):
    content = files(released)
    assert set(content) == FILES
    lines = dict(reversed(line.split("  ")) for line in content["SHA256SUMS"].decode().splitlines())
    assert lines == {k: hashlib.sha256(v).hexdigest() for k, v in content.items() if k != "SHA256SUMS"}


def test_no_path_patient_or_label_is_in_it(released, tiny_all_rows, demo):
    run = Run.open(tiny_all_rows)
    secret = {str(p).encode() for path in (tiny_all_rows, demo) for p in path.parents if len(p.parts) > 2}
    secret |= {
        str(Path.home()).encode(),
        run.folds_table()["patient_id"].iloc[0].encode(),
        run.manifest["platform"].encode(),
    }
    for name, content in files(released).items():
        assert not [text for text in secret if text in content], name
    assert list(pd.read_csv(released / "pixels.csv")) == ["isic_id", "digest"]


def test_files_of_a_machine_leave_their_names_alone(tiny_all_rows, tmp_path):
    run = Run.open(tiny_all_rows)
    changes = {"weights": "/home/me/w.safetensors", "data.table": tmp_path / "t.csv", "folds.group": None}
    config = release.fields.replace(run.config, changes | {"folds.file": tmp_path / "f.csv"})
    kept = release.portable_config(config)
    assert (kept.weights, kept.data.table, kept.folds.file) == ("w.safetensors", None, Path("f.csv"))
    release.configuration.check(kept)


def test_kernels_are_float16_and_all_else_is_float32_in_timms_names(released, tiny_all_rows):
    half = load_file(released / "fold_none" / "model.safetensors")
    whole = load_file(tiny_all_rows / "fold_none" / "model.safetensors")
    assert half.keys() == whole.keys()
    for name, value in whole.items():
        kernel = name.endswith(".weight") and value.ndim > 1
        assert half[name].dtype == (np.float16 if kernel else value.dtype), name
        if kernel:
            np.testing.assert_allclose(half[name], value, rtol=2**-11, atol=2**-25)
        else:
            np.testing.assert_array_equal(half[name], value)


def test_weights_beyond_float16_are_refused():
    with pytest.raises(InputError, match="conv has weights beyond"):
        release.as_half({"conv": np.full((1, 1), 1e5, np.float32), "bias": np.full(1, 1e5, np.float32)})


@pytest.mark.parametrize("options", [(), ("--calibrated",)])
def test_it_predicts_as_the_run_does_to_a_thousandth(options, in_clone, tiny_all_rows, demo, tmp_path, capsys):
    expected = predicted(demo, tmp_path / "p.csv", "--run", tiny_all_rows, "--fold", "none", *options)
    capsys.readouterr()
    found = predicted(demo, tmp_path / "p.csv", *options)
    said = capsys.readouterr().err
    malignant = Run.open(tiny_all_rows).folds_table()["target"].sum()
    assert f"{in_clone} predicts, tiny trained on {malignant} malignant lesions; for research" in " ".join(said.split())
    assert found["model"].tolist() == expected["model"].tolist()
    np.testing.assert_allclose(found["prediction"], expected["prediction"], atol=1e-3)
    assert (found["prediction"] != expected["prediction"]).any()


def test_load_run_takes_it_where_no_run_is_named(in_clone, tiny_all_rows):
    model, variables = jaxlesion.load_run()
    whole = jaxlesion.load_run(tiny_all_rows, "none")[1]
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    ours, theirs = (model.apply(v, jaxlesion.normalise(images, model.variant)) for v in (variables, whole))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_images_that_it_was_trained_on_are_counted_by_id_and_by_pixels(in_clone, tiny_all_rows, demo, tmp_path, capsys):
    trained = Run.open(tiny_all_rows).trained_rows([ALL_ROWS])["isic_id"].tolist()
    assert pd.read_csv(in_clone / "pixels.csv")["isic_id"].tolist() == trained
    data = tmp_path / "test-image"
    data.mkdir()
    with open_images(demo / "train-image.hdf5") as images:
        for name, isic_id in {trained[0]: trained[0], "renamed": trained[1]}.items():
            (data / f"{name}.jpg").write_bytes(images.read(isic_id))
    predicted(data, tmp_path / "p.csv")
    text = " ".join("".join(capsys.readouterr()).split())
    assert f"1 of these rows were trained on, by their ids ({trained[0]}" in text
    assert "1 of these images have exactly the pixels of one that was trained on under another id (renamed" in text


def test_other_weights_than_those_released_are_refused(released, demo, tmp_path, capsys):
    copy = shutil.copytree(released, tmp_path / "copy")
    path = copy / "fold_none" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    argv = ("--run", copy, "--data-dir", demo, "--out", tmp_path / "p.csv")
    assert "its SHA-256 is not the one in" in refusal(capsys, predict, *argv)
    shutil.copy(released / "fold_none" / "model.safetensors", path)
    (copy / "SHA256SUMS").unlink()
    assert "its SHA-256 is not the one in" in refusal(capsys, predict, *argv)


def test_without_it_a_run_must_be_named(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(place, "FOLDER", tmp_path)
    said = refusal(capsys, predict, "--data-dir", demo)
    assert "a wheel has none" in said
    assert "give --run" in said
    with pytest.raises(InputError, match="a wheel has none"):
        jaxlesion.load_run()


def test_it_is_evaluated_on_lesions_that_it_was_not_trained_on(released, demo, tmp_path, capsys):
    argv = ("--run", released, "--bootstrap", "0", "--data-dir")
    assert "was trained on" in refusal(capsys, evaluate, *argv, demo)
    other = shutil.copytree(demo, tmp_path / "other")
    table = pd.read_csv(demo / "train-metadata.csv", dtype=str)
    table = table[~table["isic_id"].isin(pd.read_csv(released / "pixels.csv")["isic_id"])]
    table.to_csv(other / "train-metadata.csv", index=False)
    evaluate.main([*map(str, argv), str(other), "--tta", "8", "--out", str(tmp_path / "p.csv")])
    assert "make sure that none of these patients is" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "p.csv")["isic_id"]) == set(table["isic_id"])


def test_what_needs_rows_folds_or_held_out_predictions_is_refused_in_one_line(released, demo, capsys):
    run, data = ("--run", released), ("--data-dir", demo)
    commands = [(program, *run) for program in (evaluate, report, knn, duplicates)]
    commands += [(duplicates, *run, *data), (predict, *run, *data, "--fold", "all")]
    commands += [(train, "--run-dir", released), (train, "--run-dir", released, "--resume")]
    before = files(released)
    for command in commands:
        assert "is a released model" in refusal(capsys, *command), command
    assert files(released) == before


def test_the_card_has_counts_and_figures_of_the_run_and_what_its_options_are(released, tiny_all_rows):
    run, card = Run.open(tiny_all_rows), (released / "README.md").read_text()
    lesions = run.folds_table()
    facts = json.loads((released / "manifest.json").read_text())["released"]
    assert facts["rows"] == len(lesions)
    assert facts["malignant"] == facts["benign_in_epoch"] == lesions["target"].sum()
    assert facts["patients"] == lesions["patient_id"].nunique()
    assert (
        f"The run has {len(lesions)} lesions of {facts['patients']} patient ids, {facts['malignant']} of them malignant"
        in card
    )
    parts = summarise_run(run.config, lesions, read_predictions(tiny_all_rows / "oof.csv"), EvalOptions(resamples=20))
    row = next(line for line in card.splitlines() if line.startswith(f"| {POOLED} |"))
    assert cell(parts[POOLED]["whole fold"]["roc_auc"]) in row
    for text in (
        "They are random.",
        "| `--optim.warmup-steps` | 2 |",
        "medical device",
        "CC-0, CC-BY",
        "Initial weights: random",
    ):
        assert text in card
    assert "--optim.clip" not in card


def test_a_run_without_folds_or_without_the_model_cannot_be_released(released, tiny_run, tmp_path):
    with pytest.raises(InputError, match="train --fold none"):
        release.release(release.ReleaseConfig(tiny_run, tmp_path / "out"))
    with pytest.raises(InputError, match="is a released model"):
        release.release(release.ReleaseConfig(released, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_missing_digests_are_refused_and_written_by_resuming(tiny_all_rows, tmp_path):
    copy = shutil.copytree(tiny_all_rows, tmp_path / "run")
    lines = (copy / "pixels.csv").read_text().splitlines(keepends=True)
    (copy / "pixels.csv").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="lacks 1 of the images"):
        release.release(release.ReleaseConfig(copy, tmp_path / "out", 0))
    train.main(["--run-dir", str(copy), "--resume", "--fold", "none"])
    assert (copy / "pixels.csv").read_text() == "".join(lines)


def test_an_earlier_release_is_replaced_and_nothing_else(released, tiny_all_rows, tmp_path):
    copy = shutil.copytree(released, tmp_path / "copy")
    (copy / "README.md").write_text("old")
    release.release(release.ReleaseConfig(tiny_all_rows, copy, 20, "They are random."))
    assert files(copy) == files(released)
    with pytest.raises(InputError, match="something else"):
        release.release(release.ReleaseConfig(tiny_all_rows, shutil.copytree(tiny_all_rows, tmp_path / "run"), 20))
