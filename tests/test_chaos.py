"""Runs that are killed, starved of disk or fed nonsense, many times over; `make chaos N=100` for the long form."""

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlesion.checkpoint import Checkpoints
from jaxlesion.runs import Run
from jaxlesion.sharding import data_mesh, replicated
from jaxlesion.state import abstract_state

KILLS = int(os.environ.get("CHAOS", "20"))

# Trains, saves after every step, and writes down each step before it is saved.
PROGRAM = """
import sys
from jaxlesion import train, training
original = training.train_batches

def noted(step, state, batches, put, on_loss, due, save):
    at = [int(state.step)]
    def next_step():
        at[0] += 1
        with open(sys.argv[1], "a") as file:
            file.write(f"{at[0]}\\n")
        return due()
    return original(step, state, batches, put, on_loss, next_step, save)

training.train_batches = noted
train.main(sys.argv[2:])
"""


def start(steps: Path, *argv: object) -> subprocess.Popen:
    """The program in a process of its own; what it prints is in its stdout."""
    command = [sys.executable, "-c", PROGRAM, steps, *argv]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(run: Path) -> dict[str, str]:
    """SHA-256 of all that a fold has at its end: its records, its predictions, and its state to the last bit."""
    fold = Run.open(run).fold(0)
    files = {
        name: hashlib.sha256((fold.folder / name).read_bytes()).hexdigest() for name in ("metrics.jsonl", "oof.csv")
    }
    with Checkpoints(fold.checkpoints, read_only=True) as checkpoints:
        like = abstract_state(Run.open(run).config, replicated(data_mesh(1, jax.devices()[:1])))
        leaves = jax.tree.leaves(checkpoints.restore(checkpoints.step(), like))
    return files | {"state": hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()}


@pytest.fixture(scope="module")
def command(tiny_command):
    return [*tiny_command, "--epochs", "4", "--augment.recipe", "full", "--checkpoint.every-minutes", "1e-9"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The end of the run that nothing interrupts, and how many seconds its steps take."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder / "steps", *command, "--run-dir", folder / "run")
    while not (folder / "steps").exists() and process.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return end_of(folder / "run"), time.monotonic() - began


@pytest.mark.extra
def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(command, whole, tmp_path):
    luck, kills, runs, losses = random.Random(0), 0, 0, []
    end, seconds = whole
    while kills < KILLS:
        folder = tmp_path / f"run{runs}"
        steps, runs, done = tmp_path / f"steps{runs}", runs + 1, 0
        while True:
            steps.unlink(missing_ok=True)
            started = (folder / "config.json").exists()
            options = ["--resume"] if started else command
            process = start(steps, *options, "--run-dir", folder)
            if kills < KILLS:
                if luck.random() < 0.9:  # the others before the first step
                    while not steps.exists() and process.poll() is None:
                        time.sleep(0.002)
                time.sleep(luck.uniform(0, 0.6 * seconds))
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
            out, errors = process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), errors
            if came_back := re.search(r"going on from step (\d+)", out):
                losses.append(done - int(came_back[1]))
                assert "set aside" not in errors
            elif started and done > 2 and steps.exists():
                raise AssertionError(f"silently started anew after step {done}: {out}")
            if steps.exists():
                done = int(steps.read_text().split()[-1])
            if process.returncode == 0:
                break
        assert end_of(folder) == end
        assert not [*folder.rglob("_trash")]
    print(
        f"{kills} kills in {runs} runs; steps made again: {np.bincount(np.maximum(losses, 0)).tolist()} times 0, 1, ..."
    )
    # One for the step after the last save, and one for the save that was under way.
    assert max(losses) <= 2
    assert kills >= KILLS


FILLS_UP = """
import resource, sys
from jaxlesion import train, training
original = training.train_batches

def filling(step, state, batches, put, on_loss, due, save):
    def save_in_little_room(state):
        if int(state.step) == int(sys.argv[1]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        save(state)
    return original(step, state, batches, put, on_loss, due, save_in_little_room)

training.train_batches = filling
train.main(sys.argv[3:])
"""


@pytest.mark.extra
@pytest.mark.parametrize(("step", "room"), [(3, 0), (3, 5_000), (6, 100), (6, 40_000)])
def test_a_full_disk_ends_in_one_line_and_spares_what_was_saved(step, room, command, whole, tmp_path):
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", FILLS_UP, str(step), str(room), *command, "--run-dir", str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "cannot be written" in line
    resumed = start(tmp_path / "steps", "--resume", "--run-dir", folder)
    out, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    came_back = int(re.search(r"going on from step (\d+)", out)[1])
    assert came_back in (step - 2, step - 1)  # the save before may have been under way
    assert end_of(folder) == whole[0]
