"""Predictions in shards equal those in one pass, despite kills, several processes, or existing files."""

import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxlesion import predict
from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import predictions_table, write_predictions
from jaxlesion.inference import predictor as inference
from jaxlesion.inference import shards as module
from jaxlesion.inference.predictor import Ensemble, restore_variables
from jaxlesion.inference.shards import Part, Shards
from jaxlesion.runs.store import Run

SHARDS = 5  # 120 rows, 20 per shard, rounded up to 24: whole batches of 8


@pytest.fixture(scope="module")
def many(demo, tmp_path_factory):
    """Lay out the 120 training lesions as a test set."""
    folder = tmp_path_factory.mktemp("many")
    shutil.copy(demo / "train-image.hdf5", folder / "test-image.hdf5")
    shutil.copy(demo / "train-metadata.csv", folder / "test-metadata.csv")
    return folder


@pytest.fixture
def command(tiny_run, many, tmp_path):
    """Return options that predict the lesions in shards."""
    return [
        *("--run", str(tiny_run), "--data-dir", str(many), "--shard-rows", "20"),
        *("--out", str(tmp_path / "p.csv"), "--submission", str(tmp_path / "s.csv")),
    ]


@pytest.fixture(scope="module")
def whole(tiny_run, many, tmp_path_factory):
    """Return the files of a prediction in one shard."""
    folder = tmp_path_factory.mktemp("whole")
    out = ("--out", str(folder / "p.csv"), "--submission", str(folder / "s.csv"))
    predict.main(["--run", str(tiny_run), "--data-dir", str(many), *out])
    return files(folder)


@pytest.fixture
def calls(monkeypatch):
    """Return the first rows of all predicted shards, and a dict of exceptions to raise, by number of shards."""
    seen, end, original = [], {}, Ensemble.predict

    def counted(self, lesions, rows, after):
        if len(seen) in end:
            raise end[len(seen)]
        seen.append(rows[0])
        return original(self, lesions, rows, after)

    monkeypatch.setattr(Ensemble, "predict", counted)
    return seen, end


def test_cores_become_devices_before_jax_is_asked_for_anything(tiny_run, monkeypatch):
    """Its platform, for instance: JAX would make one device, whatever the cores."""
    asked, use_cores, default_backend = [], inference.use_cores, jax.default_backend
    monkeypatch.setattr(inference, "use_cores", lambda size: asked.append("cores") or use_cores(size))
    monkeypatch.setattr(jax, "default_backend", lambda: asked.append("platform") or default_backend())
    run = Run.open(tiny_run)
    Ensemble(run, SimpleNamespace(config=run.config.data), "last")
    assert asked[0] == "cores"
    assert "platform" in asked


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(argv, *parts: str) -> None:
    config = predict.parse(predict.PredictConfig, argv, "predict")
    with pytest.raises(InputError) as caught:
        predict.predict(config)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# the same bytes


def test_shards_make_the_bytes_that_one_makes_and_leave_nothing_else(command, whole, tmp_path, calls):
    predict.main(command)
    assert calls[0] == [0, 24, 48, 72, 96]
    assert files(tmp_path) == whole
    assert pd.read_csv(tmp_path / "p.csv")["isic_id"].nunique() == 120


@pytest.mark.parametrize("done", [2, *(pytest.param(n, marks=pytest.mark.extra) for n in (1, 3, 4))])
def test_what_was_stopped_makes_the_shards_that_are_missing_and_no_other(done, command, whole, tmp_path, calls, capsys):
    calls[1][done] = KeyboardInterrupt()
    with pytest.raises(SystemExit):
        predict.main(command)
    assert not (tmp_path / "p.csv").exists()
    calls[1].clear()
    predict.main(command)
    assert calls[0] == [0, 24, 48, 72, 96]
    assert f"{done} of {SHARDS} shards are in" in capsys.readouterr().err
    assert files(tmp_path) == whole


@pytest.mark.parametrize("at", ["merge", pytest.param("remove", marks=pytest.mark.extra)])
def test_stopped_at_the_end_it_calls_no_network_again(at, command, whole, tmp_path, calls, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Shards, at, lambda self: sys.exit(7))
        with pytest.raises(SystemExit):
            predict.main(command)
    assert len(files(tmp_path / "p.csv.parts")) == SHARDS + 1
    predict.main(command)
    assert calls[0] == [0, 24, 48, 72, 96]
    assert files(tmp_path) == whole


KILLED = """
import os, signal, sys
from jaxlesion import predict
from jaxlesion.core import files
replace, left = os.replace, [int(sys.argv[1])]

def killed(source, target):
    if "p.csv" in str(target):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = killed
predict.main(sys.argv[2:])
"""


@pytest.mark.extra
@pytest.mark.parametrize("written", range(SHARDS + 1))
def test_killed_with_a_shard_or_the_table_half_written(written, command, whole, tmp_path, calls):
    """Include a kill after all shards, with the table still under its temporary name."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(written), *command], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    predict.main(command)
    assert len(calls[0]) == SHARDS - written
    assert {name: content for name, content in files(tmp_path).items() if not name.startswith(".")} == whole


# shared


def test_parts_that_know_nothing_of_each_other_make_the_same_bytes(command, whole, tmp_path, calls, capsys):
    for index in (2, 0):
        predict.main([*command, "--part", f"{index}/3"])
        assert not (tmp_path / "p.csv").exists()
    assert "4 of 5 shards are missing" in capsys.readouterr().err
    predict.main([*command, "--part", "1/3"])
    assert calls[0] == [48, 0, 72, 24, 96]
    assert files(tmp_path) == whole


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_shard_is_of_one_part(count):
    made = [shard for index in range(count) for shard in Part(index, count).shards(SHARDS)]
    assert sorted(made) == list(range(SHARDS))


def test_a_part_comes_from_the_option_then_the_launcher():
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}
    mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert Part.of("0/4", slurm) == (0, 4)
    assert Part.of(None, slurm) == (3, 8)
    assert Part.of(None, mpi) == (1, 2)
    assert Part.of(None, {}) == (0, 1)
    # A batch script outside srun has one process, whatever was allocated.
    assert Part.of(None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == (0, 1)


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "a/b", "0/0", "1/2/3", ""])
def test_a_part_that_does_not_exist_is_one_line(text):
    with pytest.raises(InputError, match="--part"):
        Part.of(text, {})


# existing files


@pytest.fixture
def begun(command, calls, tmp_path):
    """Return the command, stopped after two shards."""
    calls[1][2] = KeyboardInterrupt()
    with pytest.raises(SystemExit):
        predict.main(command)
    calls[1].clear()
    return command


def test_shards_of_anything_else_are_refused_by_name(begun, many, tmp_path, monkeypatch):
    before = files(tmp_path / "p.csv.parts")
    refused([*begun, "--batch-size", "4"], "p.csv.parts", "other batch size", "delete the folder")
    refused([*begun, "--calibrated"], "other checkpoints")
    data = shutil.copytree(many, tmp_path / "data")
    with h5py.File(data / "test-image.hdf5", "r+") as images:
        one, two = list(images)[:2]
        for old, new in ((one, "x"), (two, one), ("x", two)):
            images.move(old, new)
    refused([*begun, "--data-dir", str(data)], "other images")
    with open(data / "test-metadata.csv", "a") as file:
        file.write("\n")
    refused([*begun, "--data-dir", str(data)], "other metadata")

    def of_another_run(*args):
        variables, step = restore_variables(*args)
        head = variables["params"]["classifier"]
        return {**variables, "params": {**variables["params"], "classifier": jax.tree.map(jnp.negative, head)}}, step

    monkeypatch.setattr(inference, "restore_variables", of_another_run)
    refused(begun, "other weights")
    assert files(tmp_path / "p.csv.parts") == before


def made(folder, rows: int = 4) -> Shards:
    return Shards(folder / "p.csv", ["a", "b", "c", "d", "e"], rows, {"of": "these"})


def table(ids: list[str]) -> pd.DataFrame:
    lesions = pd.DataFrame({"isic_id": ids, "patient_id": [f'"{i}",\n' for i in ids]})
    return predictions_table(lesions, np.linspace(0, 1, len(ids)), "m, n")


def test_text_that_needs_quotes_comes_through(tmp_path):
    shards = made(tmp_path)
    shards.write(0, table(["a", "b", "c", "d"]))
    assert not shards.merge()
    shards.write(1, table(["e"]))
    assert shards.merge()
    write_predictions(tmp_path / "whole.csv", pd.concat([table(["a", "b", "c", "d"]), table(["e"])]))
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_shard_that_is_not_what_was_written_is_named(tmp_path):
    shards = made(tmp_path)
    shards.write(0, table(["a", "b", "c", "d"]))
    shards.write(1, table(["e"]))
    path = tmp_path / "p.csv.parts" / "000000.csv"
    good = path.read_text()
    for bad in (good[:-20], good + good[-20:], good.replace("b,", "d,"), good.partition("\n")[2], ""):
        path.write_text(bad)
        with pytest.raises(InputError, match=r"000000.csv does not hold its rows .*: delete it"):
            shards.merge()
        assert not shards.out.exists()
    path.unlink()
    assert shards.missing() == [0]


def test_another_process_may_merge_and_remove_at_any_time(tmp_path):
    ours, theirs = made(tmp_path), made(tmp_path)
    theirs.write(0, table(["a", "b", "c", "d"]))
    theirs.write(1, table(["e"]))
    assert theirs.merge()
    theirs.remove()
    ours.write(1, table(["e"]))  # a late write has no effect
    assert ours.merge()
    ours.remove()
    assert list(files(tmp_path)) == ["p.csv"]


def test_two_that_begin_at_once_agree_on_what_they_make(tmp_path, monkeypatch):
    """Let the first process create the folder after the second has found none."""
    original = module.write_atomic

    def meanwhile(path, content):
        monkeypatch.setattr(module, "write_atomic", original)
        made(tmp_path)
        original(path, content)

    monkeypatch.setattr(module, "write_atomic", meanwhile)
    with pytest.raises(InputError, match="other shard rows"):
        made(tmp_path, rows=3)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv.parts"]


def test_the_folder_must_exist(tiny_run, many, tmp_path):
    argv = ["--run", str(tiny_run), "--data-dir", str(many)]
    refused([*argv, "--out", str(tmp_path / "no" / "p.csv")], "--out", "no such folder")
    refused([*argv, "--shard-rows", "0"], "--shard-rows must be at least 1")
