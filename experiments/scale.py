"""Measure how time and memory grow with the rows: all commands at the challenge's size, prediction up to a million.

    python -m experiments.scale --out scale.md

Makes data with as many rows and columns as the challenge, whose images repeat some hundred synthetic crops. Measures
seconds and peak resident memory of each command in a separate process. By default (--training) the network is the
tiny one at 32 px, to measure everything but the network. `--table-rows 3000 --rows 500 2000` shrinks it to a minute.
Needs 13 GB of disk and half an hour on 2 cores.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import tyro

from jaxlesion.core.errors import InputError
from jaxlesion.data.demo import write_demo
from jaxlesion.data.schema import TEST_COLUMNS, TRAIN_COLUMNS
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.terminal import say

SKEW = 1.0  # standard deviation of the logarithm of a patient's share: the largest has some 15 times the mean


def write_lesions(
    folder: Path, split: str, rows: int, *, patients: int, malignant: int, crops: Path, seed: int = 0
) -> None:
    """Write `<split>-metadata.csv` and `<split>-image.hdf5` of many lesions, in the competition's layout.

    A patient's share of the lesions is log-normal. Each lesion copies the metadata of a synthetic one of its class,
    with 10 % noise on the numbers, and the bytes of one of the synthetic images. Patients copy synthetic patients.

    Args:
        folder: created if missing.
        split: train, with targets and all 55 columns, or test, with the 44 that are known before a biopsy.
        rows: number of lesions, at least one for each patient.
        patients: number of patients.
        malignant: number of malignant lesions.
        crops: folder of synthetic lesions.
        seed: of all random numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, split == "train"))
    share = rng.lognormal(sigma=SKEW, size=patients)
    counts = 1 + rng.multinomial(rows - patients, share / share.sum())
    owner = rng.permutation(np.repeat(np.arange(patients), counts))
    target = np.zeros(rows, np.int8)
    target[rng.choice(rows, malignant, replace=False)] = 1
    ids = [f"ISIC_{number:07d}" for number in range(rows)]
    drawn = pd.read_csv(crops / "train-metadata.csv")
    of_class = [np.flatnonzero(drawn["target"] == label) for label in (0, 1)]
    like = np.where(target == 1, rng.choice(of_class[1], rows), rng.choice(of_class[0], rows))
    columns = TRAIN_COLUMNS if split == "train" else TEST_COLUMNS
    people = drawn.drop_duplicates("patient_id").reset_index(drop=True).iloc[owner % drawn["patient_id"].nunique()]
    with open(folder / f"{split}-metadata.csv", "w", newline="") as file:
        for start in range(0, rows, 50_000):
            part = slice(start, min(start + 50_000, rows))
            table = drawn.iloc[like[part]].reset_index(drop=True)
            for column in ("age_approx", "sex", "tbp_tile_type", "attribution"):
                table[column] = people[column].to_numpy()[part]
            measured = [c for c in table if c.startswith("tbp_lv_") and table[c].dtype == float]
            table[measured] *= rng.normal(1, 0.1, (len(table), len(measured)))
            table["isic_id"], table["target"] = ids[part], target[part]
            table["patient_id"] = [f"IP_{number:07d}" for number in owner[part]]
            table[list(columns)].to_csv(file, index=False, header=start == 0, float_format="%.9g")
    _write_images(folder / f"{split}-image.hdf5", ids, crops / "train-image.hdf5", rng.integers(len(drawn), size=rows))


def _write_images(path: Path, ids: list[str], crops: Path, which: np.ndarray) -> None:
    """Write a scalar dataset for each id, as in the challenge: the bytes of the crop numbered by `which`, int [ids]."""
    from h5py import h5d, h5s, h5t

    with h5py.File(crops) as file:
        images = [np.bytes_(file[name][()]) for name in file]
    space, kinds = h5s.create(h5s.SCALAR), []
    for image in images:
        kind = h5t.C_S1.copy()
        kind.set_size(len(image))
        kind.set_strpad(h5t.STR_NULLPAD)  # an image has zeros in it
        kinds.append(kind)
    with h5py.File(path, "w") as file:
        for isic_id, k in zip(ids, which.tolist(), strict=True):
            dataset = h5d.create(file.id, isic_id.encode(), kinds[k], space)
            dataset.write(space, space, np.array(images[k]), kinds[k])


LOAD = """
import sys, time
from pathlib import Path
from jaxlesion.core.config import FoldsConfig, SamplingConfig
from jaxlesion.data.folds import assign, training_rows, validation_rows
from jaxlesion.data.lesions import read_lesions
began = time.perf_counter()
lesions = read_lesions(Path(sys.argv[1]))
loaded = time.perf_counter()
lesions = assign(lesions, FoldsConfig())
rows = [draw(lesions, k, SamplingConfig(), 0) for k in range(5) for draw in (training_rows, validation_rows)]
print(f"load: {loaded - began:.2f} s, folds and sampling: {time.perf_counter() - loaded:.2f} s, {len(rows[0]):,} rows")
"""
# Run a command and print its cost, from a small process: a child's peak memory starts at that of its parent.
WATCH = """
import os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
seconds, peak = time.perf_counter() - began, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
print(f"\\n{seconds} {usage.ru_utime + usage.ru_stime} {peak}")
process.returncode = os.waitstatus_to_exitcode(status)
sys.exit(process.returncode != 0)
"""
TRAINING = ("--weights", "none", "--model.variant", "tiny", "--data.image-size", "32", "--epochs", "1")


@dataclass(frozen=True)
class Scale:
    """Make data of a given number of rows, and measure every command on them in a separate process."""

    out: Path | None = None
    """Write the tables there too, as Markdown."""
    rows: tuple[int, ...] = (10_000, 100_000, 401_059, 1_000_000)
    """Lesions to predict: a measurement for each."""
    table_rows: int = 401_059
    """Lesions of the training set; the challenge's by default, as are the next two."""
    patients: int = 1042
    """Patients of the training set; the lesions of each are log-normal."""
    malignant: int = 393
    """Malignant lesions of the training set."""
    batch_size: int = 64
    """Images per step."""
    shard_rows: int = 65_536
    """Rows in a shard of predictions."""
    training: tuple[str, ...] = TRAINING
    """Options of the run that is trained, on 1 % of the benign rows, and predicts."""
    folder: Path | None = None
    """Keep the data there [default: a temporary folder, deleted at the end]."""


class Measured(NamedTuple):
    """A command's name, wall-clock seconds, core seconds, peak resident memory in MB, and output."""

    name: str
    seconds: float
    cpu: float
    megabytes: float
    output: str


def run_measured(name: str, argv: Sequence[object], folder: Path) -> Measured:
    """Run Python with these arguments in `folder`; return its time, memory and output.

    Raises:
        InputError: the command failed.
    """
    say(f"{name} ...")
    command = [sys.executable, "-c", WATCH, sys.executable, *map(str, argv)]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    *output, cost = done.stdout.splitlines() or [""]
    if done.returncode:
        raise InputError(f"{name} failed: {' '.join(line for line in output[-5:] if line)}")
    one = Measured(name, *map(float, cost.split()), "\n".join(output))
    say(f"{name}: {one.seconds:.1f} s, of the cores {one.cpu:.1f} s, {one.megabytes:,.0f} MB")
    return one


def make(folder: Path, split: str, rows: int, patients: int, malignant: int, crops: Path) -> Path:
    """Write lesions unless the folder exists; return the folder."""
    if not folder.is_dir():
        say(f"making {rows:,} rows ...")
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        write_lesions(draft, split, rows, patients=patients, malignant=malignant, crops=crops)
        draft.rename(folder)
    return folder


def rehearse(scale: Scale, base: Path, crops: Path) -> list[Measured]:
    """Measure every command on the training set; its run stays in `base / "run"` for `predict`."""
    data = make(base / "train", "train", scale.table_rows, scale.patients, scale.malignant, crops)
    batch = ("--data.batch-size", scale.batch_size)
    train = ("--data-dir", data, "--run-dir", "run", "--fold", "all", *batch, *scale.training)
    shutil.rmtree(base / "run", ignore_errors=True)
    commands = {
        "load, folds and sampling": ("-c", LOAD, data / "train-metadata.csv"),
        "train --fold all, and out-of-fold predictions": ("-m", "jaxlesion.train", *train),
        "evaluate --run": ("-m", "jaxlesion.evaluate", "--run", "run"),
        "evaluate --predictions": ("-m", "jaxlesion.evaluate", "--predictions", "run/oof.csv"),
        "evaluate --subgroups": (
            *("-m", "jaxlesion.evaluate", "--predictions", "run/oof.csv"),
            *("--data-dir", data, "--subgroups"),
        ),
        "report": ("-m", "jaxlesion.report", "--run", "run"),
        "duplicates": ("-m", "jaxlesion.duplicates", "--run", "run"),
    }
    return [run_measured(name, argv, base) for name, argv in commands.items()]


def predict(scale: Scale, base: Path, crops: Path) -> list[Measured]:
    """Measure the run's prediction of each number of rows."""
    done = []
    for rows in scale.rows:
        patients = max(1, rows * scale.patients // scale.table_rows)
        data = make(base / f"test-{rows}", "test", rows, patients, rows // 1000, crops)
        argv = ("-m", "jaxlesion.predict", "--run", "run", "--data-dir", data, "--out", f"{rows}.csv")
        options = ("--shard-rows", scale.shard_rows, "--submission", f"{rows}-submission.csv")
        done.append(run_measured(f"{rows:,}", [*argv, *options], base))
        if scale.folder is None:
            shutil.rmtree(data)
    return done


def as_markdown(scale: Scale, commands: Sequence[Measured], predicted: Sequence[Measured]) -> str:
    """Return both tables, with a line on the machine, as Markdown."""
    size = f"{scale.table_rows:,} rows, {scale.patients:,} patients, {scale.malignant:,} malignant"
    lines = [
        f"| {size} | s | core s | peak MB |",
        "|---|--:|--:|--:|",
        *(f"| {one.name} | {one.seconds:.1f} | {one.cpu:.1f} | {one.megabytes:,.0f} |" for one in commands),
        "",
        commands[0].output.strip(),
        "",
        "| rows predicted | s, start and index included | core s | img/s once it runs | peak MB |",
        "|--:|--:|--:|--:|--:|",
    ]
    for one in predicted:
        rate = re.search(r"\(([\d,]+) img/s\)", one.output)
        cells = one.name, f"{one.seconds:.1f}", f"{one.cpu:.1f}", rate[1] if rate else "", f"{one.megabytes:,.0f}"
        lines.append(f"| {' | '.join(cells)} |")
    machine = f"{os.cpu_count()} cores, {platform.machine()}; {time.strftime('%Y-%m-%d')}"
    return "\n".join([*lines, "", machine, ""])


def measure(scale: Scale) -> None:
    """Make the data, measure all commands, and print the tables."""
    if scale.folder is not None:
        scale.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        base = (scale.folder or Path(temporary)).resolve()
        crops = write_demo(base / "crops", patients=40, lesions=400, malignant=80)
        text = as_markdown(scale, rehearse(scale, base, crops), predict(scale, base, crops))
    print(text)
    if scale.out is not None:
        scale.out.write_text(text)


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: measure(tyro.cli(Scale, description=__doc__)))
