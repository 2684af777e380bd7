"""Runs are written atomically, refuse foreign input, and allow one process at a time in a fold."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refusals import refused

from jaxlesion.core.config import TrainConfig, identity
from jaxlesion.core.fields import flag, replace
from jaxlesion.core.files import without_nan
from jaxlesion.data.predictions import CALIBRATED, COLUMNS, predictions_table, read_predictions, write_predictions
from jaxlesion.runs.fold_dir import FoldDir
from jaxlesion.runs.manifest import make_manifest
from jaxlesion.runs.store import Run, _flat

HASHES = {"metadata": "1" * 64, "images": "2" * 64}
CONFIG = replace(TrainConfig(), {"fold": (0, 2), "data_dir": Path("d"), "optim.clip": 1.0, "weights": "none"})
LESIONS = pd.DataFrame(
    {
        "isic_id": ["z", "a", "m"],
        "patient_id": pd.array(["0012", "12", "p"], dtype="string"),
        "target": np.array([1, 0, 1], np.int8),
        "sex": ["female", None, "male"],
        "fold": np.array([0, 1, 2], np.int8),
    }
)


@pytest.fixture
def run(tmp_path) -> Run:
    manifest = make_manifest(HASHES, len(LESIONS), {"name": "none", "sha256": None}, ["cpu"])
    return Run.create(tmp_path / "deep" / "run", CONFIG, LESIONS, manifest)


# create and open


def test_a_run_is_read_back_as_it_was_created(run):
    again = Run.open(run.folder)
    assert again == run
    assert again.config == CONFIG
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.json", "folds.csv", "lock", "manifest.json"]


def test_folds_keep_rows_their_order_and_ids_as_text(run):
    table = run.folds_table()
    assert list(table) == ["isic_id", "patient_id", "target", "fold"]
    assert table.to_dict("list") == LESIONS[list(table)].to_dict("list")


def test_what_is_there_is_not_overwritten(run):
    before = {p.name: p.read_bytes() for p in run.folder.iterdir()}
    refused(lambda: Run.create(run.folder, TrainConfig(), LESIONS, {}), str(run.folder), "--run-dir")
    assert {p.name: p.read_bytes() for p in run.folder.iterdir()} == before


def test_an_empty_folder_becomes_a_run_and_a_file_does_not(tmp_path):
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", CONFIG, LESIONS, {})
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        refused(lambda folder=folder: Run.create(folder, CONFIG, LESIONS, {}), str(folder), "--run-dir")


def test_config_comes_last(tmp_path):
    """Write config.json last: a run that could not be written completely is not a run."""
    with pytest.raises(TypeError):
        Run.create(tmp_path / "run", CONFIG, LESIONS, {"not": {"for JSON"}})
    refused(lambda: Run.open(tmp_path / "run"), "is not a run")


@pytest.mark.fault(
    "runs",
    "a kill while a run is created",
    tried="3, in one process",
    outcome="the same command creates it again",
)
@pytest.mark.parametrize("left", [("lock",), ("lock", "manifest.json"), ("lock", "manifest.json", "folds.csv")])
def test_what_a_kill_left_half_made_is_made_anew(tmp_path, left):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (*left, f".{'0' * 32}.tmp"):
        (folder / name).write_text("half")
    Run.create(folder, CONFIG, LESIONS, {"data": HASHES})
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "folds.csv", "lock", "manifest.json"]
    assert Run.open(folder).manifest == {"data": HASHES}


@pytest.mark.fault(
    "runs",
    "a folder of something else in place of the run",
    tried="4, in one process",
    outcome="refused; nothing is changed",
)
@pytest.mark.parametrize("mine", [("folds.csv",), ("manifest.json",), ("lock", "notes.txt"), ("lock", "fold_0")])
def test_what_was_not_left_by_a_kill_is_not_written_over(tmp_path, mine):
    for name in mine:
        (tmp_path / name).write_text("mine")
    refused(lambda: Run.create(tmp_path, CONFIG, LESIONS, {}), "is not a run")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(mine)


@pytest.mark.fault(
    "runs",
    "two processes create one run at the same time",
    tried="1, in one process",
    outcome="the second uses the first's options, or is refused by name",
)
def test_of_two_that_begin_a_run_at_once_the_second_goes_by_the_first(tmp_path, monkeypatch):
    folder, other = tmp_path / "run", replace(CONFIG, {"epochs": 3})

    class Overtaken:
        """A lock acquired only after another process has created the run."""

        def __init__(self, path):
            monkeypatch.undo()
            Run.create(path.parent, CONFIG, LESIONS, {"data": HASHES})

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("jaxlesion.runs.store.filelock.FileLock", Overtaken)
    run = Run.create(folder, other, LESIONS, {"data": {}})
    assert (run.config, run.manifest) == (CONFIG, {"data": HASHES})
    refused(lambda: run.check_same(other, HASHES), "--epochs 20, not 3")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"epochs": "five"}', '{"pace": 1}', '{"data": 3}', "\udcff"])
def test_a_damaged_configuration_is_named(run, content):
    (run.folder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    refused(lambda: Run.open(run.folder), str(run.folder / "config.json"))


def test_a_stored_configuration_is_checked(run):
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"epochs": 20', '"epochs": 0'))
    refused(lambda: Run.open(run.folder), "--epochs")


def test_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        refused(lambda folder=folder: Run.open(folder), f"{folder} is not a run")


@pytest.mark.parametrize("content", [None, "{"])
def test_a_damaged_manifest_is_named(run, content):
    path = run.folder / "manifest.json"
    path.unlink() if content is None else path.write_text(content)
    refused(lambda: run.check_data(HASHES), str(path))


# the same run


def test_the_same_configuration_and_data_pass(run):
    run.check_same(CONFIG, HASHES)
    run.check_same(replace(CONFIG, {"fold": "all", "resume": True, "checkpoint.every_minutes": 1.0}), HASHES)
    run.check_same(replace(CONFIG, {"data_dir": Path("moved"), "run_dir": Path("moved")}), HASHES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 3, "--epochs 20, not 3"),
        ("data.seed", 1, "--data.seed 0, not 1"),
        ("optim.clip", None, "--optim.clip 1.0, not None"),
        ("augment.recipe", "full", "--augment.recipe light, not full"),
        ("model.variant", "tiny", "--model.variant efficientnetv2_b1, not tiny"),
    ],
)
def test_another_configuration_is_refused_by_option(run, name, value, message):
    refused(lambda: run.check_same(replace(CONFIG, {name: value}), HASHES), message)


def other(value):
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else 1 if value is None else f"other {value}"


IDENTITY = _flat(identity(CONFIG))


@pytest.mark.fault(
    "runs",
    "resuming with another value of an option, each in turn",
    tried="26 options, in one process",
    outcome="refused; the message has the option and both values",
)
@pytest.mark.parametrize("name", IDENTITY)
def test_each_option_that_a_figure_depends_on_is_refused_by_name(run, name):
    refused(
        lambda: run.check_same(replace(CONFIG, {name: other(IDENTITY[name])}), HASHES), f"{flag(name)} {IDENTITY[name]}"
    )


@pytest.mark.parametrize("name", HASHES)
def test_other_data_is_refused_by_file(run, name):
    other = HASHES | {name: "3" * 64}
    refused(lambda: run.check_same(CONFIG, other), f"other {name}", "333333333333...", HASHES[name][:12])
    refused(lambda: run.check_data(other), f"other {name}")


# locks


def test_one_holder_at_a_time(tmp_path):
    fold = FoldDir(tmp_path / "fold_0")
    with fold.lock():
        refused(lambda: FoldDir(tmp_path / "fold_0").lock(), str(fold.folder), "another process")
        with FoldDir(tmp_path / "fold_1").lock():
            pass
    with fold.lock():
        pass


def test_a_lock_is_free_once_its_holder_is_dead(tmp_path):
    code = (
        "import sys; from pathlib import Path; from jaxlesion.runs.fold_dir import FoldDir\n"
        "held = FoldDir(Path(sys.argv[1])).lock()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    fold = FoldDir(tmp_path / "fold_0")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(fold.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            refused(fold.lock, "another process")
        finally:
            holder.kill()
            holder.wait()
        with fold.lock():
            pass


# written files


def test_metrics_are_strict_json_with_null_for_the_undefined(tmp_path):
    fold = FoldDir(tmp_path / "fold_0")
    assert fold.metrics() == []
    records = [{"epoch": 1, "validation": {"roc_auc": float("nan"), "pauc": 0.1}}, {"epoch": 2, "loss": float("inf")}]
    fold.write_metrics(records)
    assert not re.search("NaN|Infinity", (fold.folder / "metrics.jsonl").read_text())
    assert fold.metrics() == [{"epoch": 1, "validation": {"roc_auc": None, "pauc": 0.1}}, {"epoch": 2, "loss": None}]
    fold.write_metrics(records[:1])
    assert len(fold.metrics()) == 1


@pytest.mark.parametrize("content", ['{"epoch": 1}\n{"epo', "\0" * 9])
def test_damaged_metrics_are_named(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    refused(FoldDir(tmp_path).metrics, str(tmp_path / "metrics.jsonl"))


def test_without_nan_leaves_the_rest():
    value = {"a": 1, "b": {"c": -0.0, "d": None, "e": "nan", "f": float("-inf")}}
    assert without_nan(value) == {"a": 1, "b": {"c": 0.0, "d": None, "e": "nan", "f": None}}


def test_times_are_appended(tmp_path):
    fold = FoldDir(tmp_path)
    fold.add_timing({"epoch": 1})
    fold.add_timing({"epoch": 2})
    assert [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()] == [
        {"epoch": 1},
        {"epoch": 2},
    ]


def test_oof_is_collected_fold_by_fold(run):
    lesions = pd.DataFrame({"isic_id": ["b", "a"], "patient_id": ["q", "p"], "target": [0, 1]})
    assert run.finished_folds() == []
    for k in (10, 2, 0):
        run.fold(k).checkpoints.mkdir(parents=True)
        write_predictions(run.fold(k).oof, predictions_table(lesions, np.array([0.25, k / 16]), f"fold_{k}/3", k))
    run.fold(1).checkpoints.mkdir(parents=True)
    assert run.finished_folds() == [0, 2, 10]
    assert (run.fold(1).started, run.fold(1).finished, run.fold(3).started) == (True, False, False)
    table = run.collect_oof()
    assert table["fold"].tolist() == [0, 0, 2, 2, 10, 10]
    assert table["isic_id"].tolist() == ["b", "a"] * 3
    stored = read_predictions(run.folder / "oof.csv")
    assert list(stored) == [*COLUMNS, CALIBRATED]
    pd.testing.assert_frame_equal(stored, table)
    np.testing.assert_array_equal(
        stored[CALIBRATED], run.calibration().out_of_fold(stored["prediction"], stored["fold"])
    )
    again = run.collect_oof()
    pd.testing.assert_frame_equal(again, table)


def test_one_fold_alone_has_no_calibrated_predictions(run):
    lesions = pd.DataFrame({"isic_id": ["b", "a"], "patient_id": ["q", "p"], "target": [0, 1]})
    run.fold(2).checkpoints.mkdir(parents=True)
    write_predictions(run.fold(2).oof, predictions_table(lesions, np.array([0.25, 0.5]), "fold_2/3", 2))
    assert list(run.collect_oof()) == list(COLUMNS)


def test_the_manifest_says_what_made_the_figures():
    manifest = make_manifest(HASHES, 7, {"name": "imagenet", "sha256": "4" * 64}, ["cpu", "cpu"])
    assert set(manifest) == {"versions", "git_commit", "platform", "devices", "rows", "data", "weights"}
    assert (manifest["rows"], manifest["data"], manifest["devices"]) == (7, HASHES, ["cpu", "cpu"])
    assert manifest["weights"] == {"name": "imagenet", "sha256": "4" * 64}
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy", "pandas"} <= set(manifest["versions"])
    assert manifest["git_commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", manifest["git_commit"])
    assert json.loads(json.dumps(manifest)) == manifest
