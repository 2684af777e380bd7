"""Two processes with two devices each train like one device: same order, numbers and files."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from jaxlesion.core.config import DataConfig
from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.data.batches import Batches, epoch_order
from jaxlesion.data.open import open_dataset
from jaxlesion.runs.store import Run
from jaxlesion.runtime import processes as distributed
from jaxlesion.runtime.processes import gather, launched, local_share

# Train, and note the ids read, the rows and loss of each step, digests of saved and restored states, and the last
# state. After its step `at` a process sends itself the signal `number`. The optimiser is plain gradient descent: where
# a gradient is only rounding error, as for a shift before a BatchNorm, Adam would make full steps.
PROGRAM = """
import hashlib, json, os, sys
import jax, numpy as np, optax
from jaxlesion.learning import state, trainer as training
from jaxlesion import train
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.data.batches import Batches

notes, number, at = open(sys.argv[1], "a", buffering=1), int(sys.argv[2]), int(sys.argv[3])
steps, KINDS = 0, ("params", "batch_stats")

def note(**what):
    notes.write(json.dumps(what) + "\\n")

def digest(state):
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(state))).hexdigest()

def observe(event, step=None, rows=None, loss=None, **_):
    global steps
    if event == "loss":
        note(loss=loss)
    if event == "step":
        note(rows=rows.tolist())
        steps += 1
        if steps == at:
            os.kill(os.getpid(), number)

def decoded(self, isic_id, original=Batches.decoded):
    note(read=isic_id)
    return original(self, isic_id)

def save(self, state, original=Checkpoints.save, **options):
    note(saved=int(state.step), digest=digest(state))
    flat = {name: np.concatenate([np.ravel(x) for x in jax.tree.leaves(getattr(state, name))]) for name in KINDS}
    np.savez(sys.argv[1] + ".npz", **flat)
    original(self, state, **options)

def restore(self, step, like, original=Checkpoints.restore):
    state = original(self, step, like)
    note(restored=step, digest=digest(state))
    return state

training.make_optimiser = state.make_optimiser = lambda config: optax.identity()
Batches.decoded, Checkpoints.save, Checkpoints.restore = decoded, save, restore
train.main(sys.argv[4:], observe)
"""


class Processes:
    """A command run by `count` processes together, with the output and notes of each."""

    def __init__(
        self,
        folder: Path,
        argv: list[str],
        count: int = 1,
        devices: int = 2,
        signals: dict[int, tuple[int, int]] | None = None,
        more: dict[int, list[str]] | None = None,
        absent: tuple[int, ...] = (),
    ):
        """Start the processes.

        Args:
            folder: for notes.
            argv: options of training, --run-dir included.
            count: number of processes.
            devices: devices of each process.
            signals: by process, the signal that it sends itself, and after which step.
            more: by process, additional options.
            absent: processes that are not started.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{free.getsockname()[1]}"
        folder.mkdir(exist_ok=True)
        self.run = Path(argv[argv.index("--run-dir") + 1])
        self.notes = [folder / f"notes-{count}-{index}" for index in range(count)]
        self.running = []
        for index in sorted(set(range(count)) - set(absent)):
            options = {"coordinator": where, "processes": count, "index": index} if count > 1 else {}
            together = [word for name, value in options.items() for word in (f"--distributed.{name}", value)]
            first = [self.notes[index], *(signals or {}).get(index, (0, 0))]
            words = [sys.executable, "-c", PROGRAM, *first, *argv, *together, *(more or {}).get(index, ())]
            self.running.append(
                subprocess.Popen(
                    [*map(str, words)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
                )
            )

    def end(self) -> "Processes":
        outputs = [process.communicate() for process in self.running]
        self.out, self.err = ([text[k] for text in outputs] for k in (0, 1))
        self.codes = [process.returncode for process in self.running]
        return self

    def well(self) -> "Processes":
        assert self.end().codes == [0] * len(self.running), self.err
        return self

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return Run.open(self.run).fold(0).metrics()[-1]["step"]

    def noted(self, name: str, index: int = 0) -> list:
        lines = map(json.loads, self.notes[index].read_text().splitlines())
        return [line["digest"] if name in ("saved", "restored") else line[name] for line in lines if name in line]

    def order(self) -> list[list[int]]:
        """Return the rows of each step, over all processes."""
        each = [self.noted("rows", index) for index in range(len(self.running))]
        return [[row for part in parts for row in part] for parts in zip(*each, strict=True)]


def predictions(run: Path) -> pd.Series:
    return pd.read_csv(run / "fold_0" / "oof.csv").set_index("isic_id")["prediction"]


def assert_same_end(one: Processes, other: Processes) -> None:
    with np.load(f"{one.notes[0]}.npz") as ours, np.load(f"{other.notes[0]}.npz") as theirs:
        for name, array in ours.items():
            np.testing.assert_allclose(array, theirs[name], atol=1e-5)
    a, b = predictions(one.run), predictions(other.run)
    assert a.index.tolist() == b.index.tolist()
    np.testing.assert_allclose(a, b, atol=1e-5)


# A dozen steps in two epochs, all read from files. 64 px, as at 32 px the last maps have one pixel, and BatchNorm over
# eight values amplifies rounding a hundredfold.
SHORT = (
    *("--sampling.negatives-per-positive", "1.3", "--optim.learning-rate", "3e-4", "--data.no-cache"),
    *("--data.image-size", "64"),
)


@pytest.fixture(scope="module")
def command(tiny_command):
    return [*tiny_command, *SHORT]


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    """Return an uninterrupted training on one device."""
    folder = tmp_path_factory.mktemp("alone")
    return Processes(folder, [*command, "--run-dir", str(folder / "run")], devices=1).well()


@pytest.mark.extra
def test_one_device_two_devices_and_two_processes_of_two_devices_do_the_same(command, alone, tmp_path, demo):
    double = Processes(tmp_path, [*command, "--run-dir", str(tmp_path / "double")]).well()
    several = Processes(tmp_path, [*command, "--run-dir", str(tmp_path / "several")], 2).well()
    assert len(alone.order()) == alone.steps
    assert alone.order() == double.order() == several.order()
    for other in (double, several):
        np.testing.assert_allclose(other.noted("loss"), alone.noted("loss"), atol=1e-5)
        assert_same_end(alone, other)
    folds = pd.read_csv(alone.run / "folds.csv").set_index("isic_id")["fold"]
    assert predictions(several.run).index.tolist() == folds.index[folds == 0].tolist()  # each row once
    read, mine, other = alone.noted("read"), several.noted("read", 0), several.noted("read", 1)
    assert sorted(mine + other) == sorted(read)  # no image twice
    assert abs(len(mine) - len(other)) <= 12  # three incomplete last batches, of validation and of the fold
    assert several.out[1].count("fold") == 0  # only the first process prints
    assert sorted(p.name for p in several.run.iterdir()) == sorted(p.name for p in alone.run.iterdir())


@pytest.mark.extra
@pytest.mark.parametrize(
    "options",
    [
        ("--data.on-device", "yes", "--optim.ema", "0.9"),
        ("--augment.backend", "albumentations", "--augment.recipe", "full"),
        ("--augment.recipe", "none", "--model.freeze", "--weights"),
    ],
    ids=["on device", "albumentations", "frozen"],
)
def test_all_ways_to_the_devices_work_over_processes(options, command, tmp_path):
    if options[-1] == "--weights":
        from jaxlesion.core.config import ModelConfig
        from jaxlesion.model.port import to_timm, write_safetensors
        from jaxlesion.model.registry import build_model
        from jaxlesion.model.variables import init_variables

        path = tmp_path / "tiny.safetensors"
        write_safetensors(path, to_timm(init_variables(build_model(ModelConfig(variant="tiny")), 7)))
        options = (*options, str(path))
    one, several = ([*command, *options, "--epochs", "1", "--run-dir", str(tmp_path / name)] for name in "ab")
    single, both = Processes(tmp_path, one).well(), Processes(tmp_path, several, 2).well()
    assert_same_end(single, both)
    assert single.order() == both.order()
    assert max(pd.Series(both.noted("read", 0)).value_counts()) <= 4  # no image twice for the same purpose


@pytest.mark.extra
def test_the_model_of_all_rows_is_that_of_one_process(command, tmp_path):
    one, several = ([*command, "--run-dir", str(tmp_path / name), "--fold", "none"] for name in "ab")
    single, both = Processes(tmp_path, one).well(), Processes(tmp_path, several, 2).well()
    assert single.order() == both.order()
    states = [load_file(end.run / "fold_none" / "model.safetensors") for end in (single, both)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, atol=1e-4, err_msg=name)


@pytest.mark.extra
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_signal_to_one_stops_all_at_a_step_from_which_another_number_goes_on(first, then, command, alone, tmp_path):
    run = tmp_path / "run"
    signals = {first - 1: (signal.SIGTERM, 3)}
    stopped = Processes(tmp_path, [*command, "--run-dir", str(run)], first, signals=signals).end()
    assert stopped.codes == [143] * first, stopped.err
    assert {stopped.noted("saved", index)[-1] for index in range(first)} == {stopped.noted("saved")[-1]}
    (step,) = (p.name for p in (run / "fold_0" / "checkpoints").iterdir() if p.name.isdecimal())
    assert step == str(2 + first)  # all processes are informed one step later
    more = Processes(tmp_path, ["--run-dir", str(run), "--resume"], then).well()
    assert more.noted("restored") == [stopped.noted("saved")[-1]]
    assert_same_end(alone, more)
    assert stopped.order()[: 2 + first] + more.order() == alone.order()


@pytest.mark.extra
@pytest.mark.parametrize("dies", [0, 1])
def test_where_one_is_killed_the_others_end_and_the_run_goes_on(dies, command, alone, tmp_path):
    options = ["--checkpoint.every-minutes", "1e-9", "--run-dir", str(tmp_path / "run")]
    options += ["--distributed.heartbeat-seconds", "20"]
    some = Processes(tmp_path, [*command, *options], 2, signals={dies: (signal.SIGKILL, 4)}).end()
    assert some.codes[dies] == -signal.SIGKILL
    assert some.codes[1 - dies] not in (0, -signal.SIGKILL)
    assert re.search("is gone|another task died", some.err[1 - dies])
    if dies == 0:
        return
    (tmp_path / "more").mkdir()  # separate notes: the two ended processes may have noted different steps
    more = Processes(tmp_path / "more", ["--run-dir", str(tmp_path / "run"), "--resume"], 2).well()
    assert len(more.order()) < alone.steps  # resumed from a checkpoint
    assert_same_end(alone, more)


@pytest.mark.extra
def test_an_error_in_one_is_heard_by_all_and_ends_them(command, demo, tmp_path):
    shutil.copytree(demo, tmp_path / "other")
    with open(tmp_path / "other" / "train-metadata.csv", "a") as file:
        file.write("\n")
    other = {1: ["--data-dir", str(tmp_path / "other")]}
    both = Processes(tmp_path, [*command, "--run-dir", str(tmp_path / "run")], 2, more=other).end()
    assert both.codes == [2, 2]
    for text in both.err:
        assert re.search("^error: .*was trained on other metadata", text, re.M)


@pytest.mark.extra
def test_processes_that_are_given_different_options_are_no_run(command, tmp_path):
    both = Processes(tmp_path, [*command, "--run-dir", str(tmp_path / "run")], 2, more={1: ["--epochs", "3"]}).end()
    assert both.codes == [2, 2]
    for text in both.err:
        assert re.search("^error: .*--epochs is 3, and 2 in process 0", text, re.M)
    assert not (tmp_path / "run").exists()


@pytest.mark.extra
@pytest.mark.parametrize(("index", "what"), [(0, "not all processes came to"), (1, "there is no process 0")])
def test_who_finds_no_others_says_so(index, what, command, tmp_path):
    options = ["--distributed.start-seconds", "1", "--run-dir", str(tmp_path / "run")]
    one = Processes(tmp_path, [*command, *options], 2, absent=(1 - index,)).end()
    assert one.codes == [2]
    assert re.fullmatch(f"error: {what}.*within 1 seconds.*\n", one.err[0])
    assert not (tmp_path / "run").exists()


# Bookkeeping that needs no second process.


@pytest.mark.parametrize("rows", [0, 1, 3, 8, 21, 24])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_shares_of_batches_are_disjoint_complete_and_gathered_in_order(rows, count, monkeypatch):
    everything, parts = np.arange(rows) * 10, []
    for index in range(count):
        monkeypatch.setattr(distributed, "_me", distributed._Process(index, count))
        starts = range(0, rows, 8)
        parts.append(np.concatenate([everything[s : s + 8][local_share(8)] for s in starts]) if rows else everything)
    longest = max(map(len, parts))
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    for index, part in enumerate(parts):
        monkeypatch.setattr(distributed, "_me", distributed._Process(index, count))
        others = np.stack([np.pad(p, (0, longest - len(p))) for p in parts])
        monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda mine, o=others: o)
        assert gather(part, rows, 8).tolist() == everything.tolist()


@pytest.mark.parametrize("spec", [None, RecipeSpec(flips=True)])
def test_the_shares_of_a_batch_are_the_batch(spec, demo):
    dataset = open_dataset(demo)
    config = DataConfig(image_size=16, batch_size=8)
    whole = Batches(dataset.images, dataset.lesions["isic_id"], dataset.lesions["target"], config)
    rows = np.arange(20)
    ways = [lambda batches: batches.training(rows, spec, 1), lambda batches: batches.plain(rows)]
    for way in ways if spec is None else ways[:1]:
        halves = zip(way(whole.shared(slice(0, 4))), way(whole.shared(slice(4, 8))), strict=True)
        for batch, half in zip(way(whole), halves, strict=True):
            for name, array in batch.items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in half]), array)
    assert [b["row"].tolist() for b in whole.training(rows, spec, 1)] == epoch_order(rows, 0, 1)[:16].reshape(
        2, 8
    ).tolist()


SLURM = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_RANK": "0"}


@pytest.mark.parametrize(
    ("environ", "processes"),
    [
        ({}, 1),
        (SLURM | {"SLURM_NTASKS": "2"}, 2),
        (SLURM | {"SLURM_NTASKS": "1"}, 1),
        (SLURM | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, 1),  # a shell in an allocation
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, 1),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 1),  # any pod
    ],
)
def test_a_launcher_is_one_only_if_it_started_several(environ, processes):
    assert launched(environ) == processes
