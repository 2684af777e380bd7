"""The published commands, end to end, on demo lesions with the tiny network."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from jaxlesion import duplicates, evaluate, predict, report, train
from jaxlesion.core.config import FoldsConfig, SamplingConfig
from jaxlesion.data.folds import assign, training_rows
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.open import open_dataset
from jaxlesion.data.predictions import CALIBRATED, COLUMNS, read_predictions
from jaxlesion.evaluate import EvaluateConfig
from jaxlesion.evaluation.clinic import NOT_OF_SAMPLED_PRIOR
from jaxlesion.evaluation.crossfold import rank_within_folds
from jaxlesion.evaluation.registry import summary
from jaxlesion.learning import trainer
from jaxlesion.learning.feed import feed_batches
from jaxlesion.runs.store import Run


def test_a_run_is_a_folder_with_everything_in_it(tiny_run, demo):
    run = Run.open(tiny_run)
    assert run.config.data_dir == demo
    assert run.config.epochs == 2
    assert set(run.manifest) == {
        *("versions", "git_commit", "platform", "devices", "rows", "data", "weights", "near_duplicates"),
    }
    folds = run.folds_table()
    assert len(folds) == run.manifest["rows"] == 120
    assert folds.groupby("patient_id")["fold"].nunique().max() == 1
    for k in (0, 1):
        fold = run.fold(k)
        assert fold.started
        assert fold.finished
        assert [r["epoch"] for r in fold.metrics()] == [1, 2]
        assert (fold.folder / "timing.jsonl").read_text().count("\n") == 2
    assert not run.fold(2).started


def test_out_of_fold_predictions_cover_each_held_out_row_once(tiny_run):
    oof = read_predictions(tiny_run / "oof.csv")
    folds = Run.open(tiny_run).folds_table()
    expected = folds[folds["fold"].isin([0, 1])]
    assert list(pd.read_csv(tiny_run / "oof.csv").columns) == [*COLUMNS, CALIBRATED]
    assert list(pd.read_csv(tiny_run / "fold_0" / "oof.csv").columns) == list(COLUMNS)
    assert sorted(oof["isic_id"]) == sorted(expected["isic_id"])
    joined = oof.merge(expected, on="isic_id", suffixes=("", "_file"))
    assert (joined["fold"] == joined["fold_file"]).all()
    assert (joined["target"] == joined["target_file"]).all()


def test_metrics_hold_no_times_and_are_json(tiny_run):
    for line in (tiny_run / "fold_0" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert set(record) == {"epoch", "step", "loss", "validation"}
        assert record["validation"]["positives"] > 0


@pytest.mark.parametrize("batch_size", [None, 2, 30])
def test_evaluate_gives_what_training_gave_whatever_the_batch_size(tiny_run, batch_size):
    figures = evaluate.evaluate(EvaluateConfig(run=tiny_run, batch_size=batch_size))
    oof = read_predictions(tiny_run / "oof.csv")
    target, prediction = oof["target"].to_numpy(np.int8), oof["prediction"].to_numpy()
    stored = summary(target, prediction, rank=rank_within_folds(target, prediction, oof["fold"].to_numpy(np.int8)))
    tolerance = 1e-6 if batch_size is None else 1e-5
    assert figures["pooled"]["normalised"].keys() - figures["pooled"]["whole fold"].keys() == {"brier", "ece"}
    for name, value in stored.items():
        if name in ("brier", "ece"):  # not of predictions that carry the prior of sampled rows
            continue
        assert figures["pooled"]["whole fold"][name].value == pytest.approx(value, abs=tolerance), name


def test_the_table_that_evaluate_writes_has_the_very_same_figures_and_thresholds(tiny_run, tmp_path):
    of_run = evaluate.evaluate(EvaluateConfig(run=tiny_run, bootstrap=0, out=tmp_path / "out.csv"))
    of_table = evaluate.evaluate(EvaluateConfig(predictions=tmp_path / "out.csv", bootstrap=0))
    whole, rows = of_run["pooled"]["whole fold"], of_table["pooled"]["all rows"]
    assert whole == {key: rows[key] for key in whole}
    written, trained = (read_predictions(folder) for folder in (tmp_path / "out.csv", tiny_run / "oof.csv"))
    by_id = trained.set_index("isic_id")[CALIBRATED].reindex(written["isic_id"])
    np.testing.assert_allclose(written[CALIBRATED], by_id, rtol=1e-4)


def test_evaluate_of_the_table_is_the_same_in_any_row_order(tiny_run, tmp_path):
    table = pd.read_csv(tiny_run / "oof.csv")
    table.sample(frac=1, random_state=1).to_csv(tmp_path / "shuffled.csv", index=False)
    one, other = (
        evaluate.evaluate(EvaluateConfig(predictions=path))
        for path in (tiny_run / "oof.csv", tmp_path / "shuffled.csv")
    )
    assert one == other


@pytest.mark.parametrize("option", ["--metadata", "--data-dir"])
def test_targets_may_come_from_elsewhere(option, tiny_run, demo, tmp_path):
    table = pd.read_csv(tiny_run / "oof.csv")
    table[["isic_id", "prediction"]].to_csv(tmp_path / "oof.csv", index=False)
    source = demo / "train-metadata.csv" if option == "--metadata" else demo
    argv = ["--predictions", str(tmp_path / "oof.csv"), option, str(source), "--json", str(tmp_path / "f.json")]
    with pytest.raises(SystemExit):  # the table has rows of folds that are not finished
        evaluate.main(argv)
    evaluate.main([*argv, "--allow-missing"])
    figures = json.loads((tmp_path / "f.json").read_text())["figures"]["oof.csv"]["all rows"]
    assert figures["roc_auc"]["value"] == summary(table["target"], table["prediction"])["roc_auc"]


def test_evaluate_best_carries_its_note_and_last_does_not(tiny_run, tmp_path, capsys):
    texts = {}
    for which in ("last", "best"):
        out = tmp_path / f"{which}.json"
        evaluate.main(["--run", str(tiny_run), "--checkpoint", which, "--json", str(out)])
        texts[which] = capsys.readouterr().out + " ".join(json.loads(out.read_text())["notes"])
    assert texts["best"].count("too good") == 2  # below the tables and in the file
    assert "too good" not in texts["last"]


RECIPE = (
    *("--sampling.redraw", "--augment.mixup", "0.2", "--augment.cutmix", "1", "--optim.label-smoothing", "0.1"),
    *("--optim.layer-decay", "0.8", "--optim.head-epochs", "1", "--optim.ema", "0.9"),
)


def test_every_part_of_a_recipe_resumes_to_the_same_end(tiny_command, tmp_path):
    """Cut a run off after its first epoch, whose negatives are others than the second's."""

    def cut(event, **_):
        if event == "saved":
            raise KeyboardInterrupt

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train.main([*tiny_command, *RECIPE, "--run-dir", str(whole)])
    with pytest.raises(SystemExit):
        train.main([*tiny_command, *RECIPE, "--run-dir", str(parted)], cut)
    train.main(["--run-dir", str(parted), "--resume"])
    for name in ("metrics.jsonl", "oof.csv"):
        assert (parted / "fold_0" / name).read_text() == (whole / "fold_0" / name).read_text()


def test_eight_views_in_evaluate_and_predict(tiny_run, demo, tmp_path):
    """Check that the tables differ, say so, and that shards of one view are not taken for those of eight."""
    tables = {}
    for views in ("1", "8"):
        evaluate.main(["--run", str(tiny_run), "--tta", views, "--out", str(tmp_path / "oof.csv"), "--bootstrap", "0"])
        predict.main(
            ["--run", str(tiny_run), "--data-dir", str(demo), "--tta", views, "--out", str(tmp_path / "p.csv")]
        )
        tables[views] = pd.read_csv(tmp_path / "oof.csv"), pd.read_csv(tmp_path / "p.csv")
    for one, eight in zip(tables["1"], tables["8"], strict=True):
        assert (one["prediction"] != eight["prediction"]).any()
        assert eight["model"].str.contains(" x 8 views").all()
        assert not one["model"].str.contains("views").any()


def test_a_run_that_was_cut_off_goes_on_to_the_same_end(tiny_command, tiny_run, tmp_path):
    class Cut(Exception):
        pass

    def cut(event, **_):
        if event == "saved":  # after the first epoch, whose steps take less than ten minutes
            raise Cut

    folder = tmp_path / "run"
    with pytest.raises(Cut):
        train.main([*tiny_command, "--run-dir", str(folder)], cut)
    assert not (folder / "oof.csv").exists()
    with pytest.raises(SystemExit):  # needs --resume
        train.main(["--run-dir", str(folder)])
    train.main(["--run-dir", str(folder), "--resume"])
    for name in ("metrics.jsonl", "oof.csv"):
        assert (folder / "fold_0" / name).read_text() == (tiny_run / "fold_0" / name).read_text()


def test_a_loss_that_is_not_finite_names_step_and_ids_and_keeps_the_good_checkpoint(tiny_command, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main([*tiny_command, "--run-dir", str(tmp_path / "run"), "--optim.learning-rate", "1e38"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: loss or gradient is not finite at step")
    assert message.count("DEMO_") == 8


def one_byte_of_an_image(folder):
    path, images = folder / "train-image.hdf5", open_dataset(folder).images
    image = images.read(next(iter(open_dataset(folder).lesions["isic_id"])))
    content = bytearray(path.read_bytes())
    content[content.index(image) + len(image) // 2] ^= 1
    path.write_bytes(content)


def one_target(folder):
    table = pd.read_csv(folder / "train-metadata.csv", dtype=str)
    table.loc[3, "target"] = str(1 - int(table["target"][3]))
    table.to_csv(folder / "train-metadata.csv", index=False)


def one_row_less(folder):
    table = pd.read_csv(folder / "train-metadata.csv", dtype=str)
    table.drop(index=3).to_csv(folder / "train-metadata.csv", index=False)


@pytest.mark.fault(
    "runs",
    "resuming after one image byte or one target has changed, or one row is missing",
    tried="3, in one process",
    outcome="refused; the message names images or metadata, with both hashes",
)
@pytest.mark.parametrize(
    ("change", "what"), [(one_byte_of_an_image, "images"), (one_target, "metadata"), (one_row_less, "metadata")]
)
def test_a_run_does_not_go_on_with_other_data(change, what, tiny_run, demo, tmp_path, capfd):
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(tiny_run, run)
    shutil.copytree(demo, data)
    change(data)
    with pytest.raises(SystemExit) as left:
        train.main(["--run-dir", str(run), "--data-dir", str(data), "--fold", "2", "--resume"])
    assert left.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"was trained on other {what} (SHA-256" in line
    assert not (run / "fold_2").exists()


@pytest.mark.b1
@pytest.mark.extra
def test_the_main_command_with_the_true_network(demo, tmp_path):
    train.main(
        [
            *("--fold", "0", "--data-dir", str(demo), "--weights", "none", "--run-dir", str(tmp_path / "run")),
            *("--data.image-size", "32", "--data.batch-size", "8", "--epochs", "1"),
            *("--sampling.negatives-per-positive", "1", "--augment.recipe", "full"),
        ]
    )
    figures = evaluate.evaluate(EvaluateConfig(run=tmp_path / "run"))
    oof = read_predictions(tmp_path / "run" / "oof.csv")
    expected = summary(oof["target"].to_numpy(np.int8), oof["prediction"].to_numpy())
    values = {name: figure.value for name, figure in figures["fold 0"]["whole fold"].items()}
    assert set(expected) - set(values) == set(NOT_OF_SAMPLED_PRIOR)
    assert values == pytest.approx({name: expected[name] for name in values}, abs=1e-6)


@pytest.fixture(scope="module")
def frozen_command(tiny_command, tmp_path_factory):
    """Return options that train only the classifier, on a backbone from a file."""
    from jaxlesion.core.config import ModelConfig
    from jaxlesion.model.port import to_timm, write_safetensors
    from jaxlesion.model.registry import build_model
    from jaxlesion.model.variables import init_variables

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_safetensors(path, to_timm(init_variables(build_model(ModelConfig(variant="tiny")), 7)))
    return [*tiny_command, "--weights", str(path), "--model.freeze"]


@pytest.mark.fault(
    "runs",
    "resuming with one byte of the weights changed",
    tried="1, in one process",
    outcome="refused; the message names the weights",
)
def test_another_machine_goes_on_with_its_own_paths_and_threads_but_no_other_weights(frozen_command, tmp_path, capsys):
    weights = frozen_command[frozen_command.index("--model.freeze") - 1]
    run, moved = tmp_path / "run", tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    options = ["--augment.recipe", "none", "--epochs", "1"]
    train.main([*frozen_command, *options, "--run-dir", str(run)])
    elsewhere = ["--weights", str(moved), "--data.workers", "1", "--data.no-cache"]
    train.main(["--run-dir", str(run), "--fold", "1", *elsewhere])
    assert Run.open(run).finished_folds() == [0, 1]
    moved.write_bytes(moved.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(SystemExit):
        train.main(["--run-dir", str(run), "--fold", "2", *elsewhere])
    assert "other weights" in capsys.readouterr().err


def test_features_computed_once_train_the_same_classifier_as_images(frozen_command, tmp_path, monkeypatch):
    train.main([*frozen_command, "--augment.recipe", "none", "--run-dir", str(tmp_path / "features")])
    with monkeypatch.context() as patch:  # the same from images at every step
        patch.setattr(trainer, "choose_feed", lambda training, state: feed_batches(training.mesh))
        train.main([*frozen_command, "--augment.recipe", "none", "--run-dir", str(tmp_path / "images")])
    one, other = (read_predictions(tmp_path / name / "oof.csv")["prediction"] for name in ("features", "images"))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_images_held_on_the_device_train_the_same_network(tiny_command, tiny_run, tmp_path):
    train.main([*tiny_command, "--data.on-device", "yes", "--run-dir", str(tmp_path / "run")])
    for name in ("metrics.jsonl", "oof.csv"):
        assert (tmp_path / "run" / "fold_0" / name).read_text() == (tiny_run / "fold_0" / name).read_text()


def test_weights_that_are_all_one_train_the_same_network_and_even_batches_another(tiny_command, tiny_run, tmp_path):
    of_rows, even = ["--sampling.weight-by", "isic_id"], ["--sampling.even"]
    for name, options in (("rows", of_rows), ("even", even)):
        train.main([*tiny_command, *options, "--run-dir", str(tmp_path / name)])
    rows, other = ((tmp_path / name / "fold_0" / "oof.csv").read_text() for name in ("rows", "even"))
    assert rows == (tiny_run / "fold_0" / "oof.csv").read_text() != other


def test_auxiliary_outputs_teach_in_training_alone_and_resume_exactly(tiny_command, tiny_run, demo, tmp_path):
    command = [*tiny_command, "--model.auxiliary", "iddx_1", "anatom_site_general"]
    train.main([*command, "--run-dir", str(tmp_path / "whole")])

    class Cut(Exception):
        pass

    def cut(event: str, **details) -> None:
        if event == "step" and details["step"] == 7:
            raise Cut

    with pytest.raises(Cut):
        train.main([*command, "--run-dir", str(tmp_path / "cut"), "--checkpoint.every-minutes", "1e-6"], cut)
    train.main(["--run-dir", str(tmp_path / "cut"), "--resume"])
    texts = [(run / "fold_0" / "oof.csv").read_text() for run in (tmp_path / "whole", tmp_path / "cut", tiny_run)]
    assert texts[0] == texts[1] != texts[2]
    predict.main(["--run", str(tmp_path / "whole"), "--data-dir", str(demo), "--out", str(tmp_path / "p.csv")])
    assert read_predictions(tmp_path / "p.csv")["prediction"].between(0, 1).all()


def test_a_row_of_any_epoch_needs_its_group(tiny_command, demo, tmp_path, capfd):
    """Empty one cell that the first epoch of the redrawn rows does not have: no run is begun."""
    data, out = shutil.copytree(demo, tmp_path / "data"), tmp_path / "run"
    lesions = assign(read_lesions(data / "train-metadata.csv"), FoldsConfig())
    first = training_rows(lesions, 0, SamplingConfig(negatives_kept=None, negatives_per_positive=1, redraw=True), 0)
    later = lesions.drop(index=first)
    isic_id = later["isic_id"][later["fold"] != 0].iloc[0]
    table = pd.read_csv(data / "train-metadata.csv", dtype=str)
    table.loc[table["isic_id"] == isic_id, "attribution"] = None
    table.to_csv(data / "train-metadata.csv", index=False)
    options = ["--data-dir", str(data), "--sampling.redraw", "--sampling.weight-by", "attribution"]
    with pytest.raises(SystemExit):
        train.main([*tiny_command, *options, "--run-dir", str(out)])
    assert f"--sampling.weight-by attribution: {isic_id} has none" in capfd.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("column", ["isic_id", "attribution_of_nobody"])
def test_auxiliary_columns_need_groups(column, tiny_command, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        train.main([*tiny_command, "--model.auxiliary", column, "--run-dir", str(tmp_path / "run")])
    assert left.value.code == 2
    assert f"--model.auxiliary {column}: " in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_neither_tensorflow_nor_opencv_nor_albumentations_is_imported(tiny_command, tiny_run, demo, tmp_path):
    """Check a separate process with the JAX back end and cached images."""
    run = str(tmp_path / "run")
    argv = ["--run", run, "--data-dir", str(demo), "--cache", "--out", str(tmp_path / "first.csv")]
    predict.main(["--run", str(tiny_run), *argv[2:]])
    commands = {
        "train": [*tiny_command, "--run-dir", run],
        "evaluate": ["--run", run],
        "predict": [*argv[:-1], str(tmp_path / "second.csv")],
        "report": ["--run", run, "--bootstrap", "20"],
    }
    code = f"""
import importlib, sys
heavy = {{"tensorflow", "cv2", "albumentations", "sklearn", "matplotlib"}}
for program, argv in {commands!r}.items():
    before = set(sys.modules)
    importlib.import_module("jaxlesion." + program).main(argv)
    print("loaded:", program, sorted(heavy & set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [line.removeprefix("loaded: ") for line in done.stdout.splitlines() if line.startswith("loaded: ")]
    assert loaded == ["train ['sklearn']", "evaluate []", "predict []", "report ['matplotlib']"]


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow_datasets", "albumentations", "cv2"])
def test_what_cannot_be_imported_is_missed_by_albumentations_alone(name, tiny_command, tmp_path, monkeypatch, capsys):
    for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)
    train.main([*tiny_command, "--run-dir", str(tmp_path / "run")])
    if name == "tensorflow_datasets":
        return
    with pytest.raises(SystemExit):
        train.main([*tiny_command, "--augment.backend", "albumentations", "--run-dir", str(tmp_path / "other")])
    said = capsys.readouterr().err
    assert f"--augment.backend albumentations needs {name}, which cannot be imported" in said
    assert "--augment.backend jax" in said
    assert not (tmp_path / "other").exists()


def test_the_first_command_trains_the_demo_and_the_network_learns(tmp_path, monkeypatch, capsys):
    """Run `make train`, shrunk to the tiny network: loss falls, ranking rises, all files exist."""
    monkeypatch.chdir(tmp_path)
    small = ["--model.variant", "tiny", "--data.image-size", "32", "--optim.learning-rate", "3e-3", "--epochs", "10"]
    train.main([*small, "--run-dir", "run"])
    run = Run.open(Path("run"))
    assert run.config.preset == "demo"
    assert run.config.data_dir == tmp_path / "ckpt" / "demo-data"
    records = run.fold(0).metrics()
    assert [record["epoch"] for record in records] == [*range(1, run.config.epochs + 1)]
    losses = [record["loss"] for record in records]
    assert losses[-1] < 0.8 * losses[0]
    areas = [record["validation"]["roc_auc"] for record in records]
    assert np.mean(areas[-3:]) > max(0.75, np.mean(areas[:3]))
    oof = read_predictions(Path("run/oof.csv"))
    assert summary(oof["target"].to_numpy(np.int8), oof["prediction"].to_numpy())["roc_auc"] > 0.75
    assert "mean nothing clinically" in capsys.readouterr().err


def test_near_duplicates_in_two_folds_are_said_and_the_report_repeats_it(demo, tiny_command, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(demo, data)
    folds = assign(read_lesions(demo / "train-metadata.csv"), FoldsConfig())
    one, other = (folds["isic_id"][(folds["fold"] == k) & (folds["target"] == 1)].iloc[0] for k in (0, 1))
    with h5py.File(data / "train-image.hdf5", "r+") as file:
        image = cv2.imdecode(np.frombuffer(file[one][()], np.uint8), cv2.IMREAD_COLOR)
        del file[other]
        file[other] = np.bytes_(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes())
    train.main([*tiny_command[2:], "--data-dir", str(data), "--run-dir", str(run), "--epochs", "1"])
    named = " and ".join(f"{i} \\(fold {k}\\)" for i, k in sorted([(one, 0), (other, 1)]))
    assert re.search(f"2 of .* images look like one of another fold, such as {named}: ", capsys.readouterr().err)
    assert Run.open(run).manifest["near_duplicates"]["across_folds"] == 2
    report.main(["--run", str(run), "--bootstrap", "0"])
    assert "look like one of another fold" in (run / "report" / "report.html").read_text()
    duplicates.main(["--run", str(run), "--near", "--out", str(tmp_path / "near.csv")])
    assert pd.read_csv(tmp_path / "near.csv")["isic_id"].tolist() == sorted([one, other])
