"""Every mistake gets one line, exit code 2 and leaves nothing half-written; docs/errors.md is made from this table.

python tests/test_errors.py --write
"""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from jaxlesion import duplicates, evaluate, knn, predict, report, train
from jaxlesion.core.config import replace
from jaxlesion.data.dataset import fingerprint, open_dataset
from jaxlesion.data.folds import assign
from jaxlesion.model.port import read_safetensors, write_safetensors
from jaxlesion.runs.store import Run
from jaxlesion.ui.options import parse_train

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
INTRODUCTION = """# Errors and what to do

A mistake in what is given ends a command with exit code 2 and one line on stderr that begins with `error: `. Nothing
has been written then, unless the last column says so. `FOLDER` stands for the folder that the files of these examples
lie in, `...` for a reason that another library gives.

This file is made by `python tests/test_errors.py --write` from the mistakes that the tests make.
"""

ROWS = [(f"ISIC_{i:04d}", int(i % 5 == 0), f"IP_{i % 10}") for i in range(1, 41)]  # of 40 lesions, 8 are malignant
DATA = ("--data-dir", "data", "--run-dir", "run")
SMALL = ("--model.variant", "tiny", "--weights", "none", "--data.image-size", "16", "--data.batch-size", "20")
ALL = ("--sampling.negatives-kept", "1", "--epochs", "1", "--folds.n", "2")
TRAIN = (*DATA, *SMALL, *ALL)
FILE = (*DATA, *SMALL, *ALL[:-2], "--folds.file", "folds.csv")


# What the user did, each a function that changes the good files in the current folder.


def nothing() -> None:
    """The files are good; the command is not."""


def write_table(rows: list[tuple], header: str = "isic_id,target,patient_id") -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    Path("data/train-metadata.csv").write_text("\n".join(lines) + "\n")


def good_files() -> None:
    """40 plain crops of 10 patients, one file each."""
    folder = Path("data/train-image/image")
    folder.mkdir(parents=True)
    for i, (isic_id, _, _) in enumerate(ROWS):
        (folder / f"{isic_id}.jpg").write_bytes(
            cv2.imencode(".jpg", np.full((20, 20, 3), 4 * i, np.uint8))[1].tobytes()
        )
    write_table(ROWS)


def change_row(column: int, value: object) -> Callable[[], None]:
    """Write another value into one column of the 7th row."""

    def change() -> None:
        rows = [list(row) for row in ROWS]
        rows[6][column] = value
        write_table(rows)

    return change


def no_table() -> None:
    Path("data/train-metadata.csv").unlink()


def no_images() -> None:
    shutil.rmtree("data/train-image")


def no_target() -> None:
    write_table([(isic_id, patient) for isic_id, _, patient in ROWS], "isic_id,patient_id")


def all_malignant_in_one_patient() -> None:
    write_table(
        [(isic_id, target, "IP_0" if target else f"IP_{i % 9 + 1}") for i, (isic_id, target, _) in enumerate(ROWS)]
    )


def some_hospitals() -> None:
    header = "isic_id,target,patient_id,attribution"
    write_table([(*row, "" if i == 6 else f"hospital {i % 5}") for i, row in enumerate(ROWS)], header)


def fold_file(fold_of: Callable[[int], object], rows: int = 40) -> Callable[[], None]:
    def write() -> None:
        lines = ["isic_id,fold", *(f"{ROWS[i][0]},{fold_of(i)}" for i in range(rows))]
        Path("folds.csv").write_text("\n".join(lines))

    return write


IMAGE = Path("data/train-image/image/ISIC_0007.jpg")


def changed_image(change: Callable[[bytes], bytes]) -> Callable[[], None]:
    return lambda: IMAGE.write_bytes(change(IMAGE.read_bytes()))


def without_tables(jpeg: bytes) -> bytes:
    """Whole, but no decoder can do with it."""
    return jpeg.replace(b"\xff\xdb", b"\xff\xfe")


def claiming(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + (30_000).to_bytes(2) * 2 + jpeg[at + 4 :]


def link_out_of_the_folder() -> None:
    Path("secret").write_bytes(IMAGE.read_bytes())
    IMAGE.unlink()
    IMAGE.symlink_to(Path("secret").resolve())


def pipe() -> None:
    IMAGE.unlink()
    os.mkfifo(IMAGE)


def link_out_of_the_file() -> None:
    with h5py.File("data/train-image.hdf5", "w") as file:
        for path in IMAGE.parent.iterdir():
            file[path.stem] = np.void(path.read_bytes())
        del file["ISIC_0007"]
        file["ISIC_0007"] = h5py.ExternalLink("secret.hdf5", "/ISIC_0007")


def damaged_hdf5() -> None:
    link_out_of_the_file()
    path = Path("data/train-image.hdf5")
    path.write_bytes(path.read_bytes()[:-1000])


def many_columns() -> None:
    names = [f"x{i}" for i in range(100_000)]
    write_table([(*row, *("1" * len(names))) for row in ROWS[:1]], ",".join(["isic_id,target,patient_id", *names]))


def column(name: str, cell: Callable[[int], object]) -> Callable[[], None]:
    return lambda: write_table([(*row, cell(i)) for i, row in enumerate(ROWS)], f"isic_id,target,patient_id,{name}")


def infinite_weights() -> None:
    state = read_safetensors(DOCUMENT.parents[1] / "tests" / "model" / "golden" / "state.safetensors")
    write_safetensors("weights.safetensors", state | {"bn1.weight": np.full(8, np.nan, np.float32)})


def other_weights() -> None:
    write_safetensors("weights.safetensors", {"conv_stem.weight": np.zeros((32, 3, 3, 3), np.float32)})


def garbled_weights() -> None:
    Path("weights.safetensors").write_bytes(b"no weights")


def a_run() -> Run:
    """A run as training leaves it before its first step."""
    config = replace(parse_train(TRAIN), {"data_dir": Path("data").resolve()})
    dataset = open_dataset(Path("data"))
    manifest = {"data": fingerprint(dataset), "weights": {"name": "none", "sha256": None}}
    return Run.create(Path("run"), config, assign(dataset.lesions, config.folds), manifest)


def a_run_and_other_data() -> None:
    a_run()
    change_row(1, 1)()


def a_finished_fold() -> None:
    fold = a_run().fold(0)
    fold.checkpoints.mkdir(parents=True)
    fold.oof.write_text("isic_id,prediction\n")


def a_finished_fold_and_test_rows(isic_id: str) -> Callable[[], None]:
    def make() -> None:
        a_finished_fold()
        Path("data/test-metadata.csv").write_text(f"isic_id\n{isic_id}\n")
        shutil.copytree("data/train-image", "data/test-image")

    return make


def a_finished_fold_without_its_rows() -> None:
    a_finished_fold()
    Path("run/oof.csv").write_text("isic_id,prediction,target,fold\nISIC_0001,0.5,0,0\n")


def a_started_fold() -> None:
    a_run().fold(0).checkpoints.mkdir(parents=True)


def changed_config(**changes: object) -> Callable[[], None]:
    def change() -> None:
        path = a_run().folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def a_full_folder() -> None:
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")


def predictions(cell: object, header: str = "isic_id,prediction,target") -> Callable[[], None]:
    def write() -> None:
        Path("oof.csv").write_text(f"{header}\nISIC_0001,0.5,0\nISIC_0002,{cell},1\n")

    return write


RUN_STAYS = " The run has been begun by then: delete its folder, or give another `--run-dir`."


@dataclass(frozen=True)
class Case:
    """One mistake: what it is, how it is made, the command, what is said, and what helps.

    `leaves` is whether a run remains, because the mistake shows only in training.
    """

    what: str
    make: Callable[[], object]
    program: Callable[[list[str]], None]
    argv: tuple[str, ...]
    message: str
    remedy: str
    leaves: bool = False


T, E, P, K, D, R = train.main, evaluate.main, predict.main, knn.main, duplicates.main, report.main
CSV = "FOLDER/data/train-metadata.csv"
SEE = "(see python -m jaxlesion.train --help)"
OURS = ("--run-dir", "run")
WEIGHTS = ("--weights", "weights.safetensors")
TOGETHER = (*("--distributed.coordinator", "127.0.0.1:1", "--distributed.processes", "2", "--distributed.index", "0"),)
HOSPITALS = ("--folds.group", "attribution")
PARTS = ("--run", "run", "--data-dir", "data", "--part")
OOF = ("--predictions", "oof.csv")
OF_RUN = ("--run", "run")
NEIGHBOURS = ("--data-dir", "data", "--folds.n", "2", "--out", "out", "--features")
SOUND = "replace it by a sound JPEG or PNG or remove its row"
GROUPS = {
    "The table of lesions": [
        Case(
            *("`--data-dir` is no folder", nothing, T, ("--data-dir", "nowhere", *TRAIN[2:])),
            "FOLDER/nowhere is not a folder: give --data-dir the one that holds train-metadata.csv",
            "Give `--data-dir` the folder that the competition's files were unpacked in.",
        ),
        Case(
            *("The table is not in it", no_table, T, TRAIN),
            "FOLDER/data has no train-metadata.csv: give --data-dir the folder that holds it",
            "Put `train-metadata.csv` beside the images, or name the folder where both are.",
        ),
        Case(
            *("A column is missing", no_target, T, TRAIN),
            f"{CSV}: the column target is missing (it begins with 'isic_id, patient_id')",
            "Training needs `isic_id`, `patient_id` and `target`, separated by commas; is it the training file?",
        ),
        Case(
            *("An id is there twice", change_row(0, "ISIC_0003"), T, TRAIN),
            f"{CSV}: line 8: ISIC_0003 is there twice; keep one row per lesion",
            "Remove one of the rows; look first whether they agree.",
        ),
        Case(
            *("An id that could be a path or a formula", change_row(0, "../ISIC_0007"), T, TRAIN),
            f"{CSV}: line 8: isic_id '../ISIC_0007' is not 1 to 64 of A-Z a-z 0-9 _ . -, letter or digit first",
            "Rename the lesion, in the table and among the images.",
        ),
        Case(
            *("A patient that a spreadsheet would compute", change_row(2, "=1+1"), T, TRAIN),
            f"{CSV}: line 8: patient_id '=1+1' begins like a formula or has control characters",
            "Rename the patient: the name is written into every table of predictions.",
        ),
        Case(
            *("A column is there twice", column("target", lambda i: 0), T, TRAIN),
            f"{CSV}: the column target is there 2 times; keep one of them",
            "Remove one of the columns.",
        ),
        Case(
            *("Far too many columns", many_columns, T, TRAIN),
            f"{CSV}: has 100,003 columns, where at most 10,000 are read",
            "The competition's table has 55; is this one turned on its side?",
        ),
        Case(
            *("A target outside {0, 1}", change_row(1, 2), T, TRAIN),
            f"{CSV}: line 8: target of ISIC_0007 is '2', not 0 or 1",
            "Write 1 for malignant and 0 for benign.",
        ),
        Case(
            *("A target is missing", change_row(1, ""), T, TRAIN),
            f"{CSV}: line 8: target of ISIC_0007 is empty, not 0 or 1",
            "Fill it in, or remove the row: training needs every label.",
        ),
        Case(
            *("A patient is missing", change_row(2, ""), T, TRAIN),
            f"{CSV}: line 8: ISIC_0007 has no patient_id, which folds are made by",
            "Fill it in; where patients are unknown, repeat the `isic_id` and say so with the figures.",
        ),
    ],
    "Folds": [
        Case(
            *("A fold would hold one class only", all_malignant_in_one_patient, T, TRAIN),
            "fold 1 holds 0 malignant of 21 rows: both classes are needed to train and to score; "
            "use fewer folds (--folds.n) or another --folds.group",
            "Lower `--folds.n`, or give your own folds by `--folds.file`.",
        ),
        Case(
            *("Fewer groups than folds", nothing, T, (*TRAIN, "--folds.n", "11")),
            "11 folds need at least 11 groups, and there are 10: lower --folds.n",
            "Lower `--folds.n` to the number of groups or below.",
        ),
        Case(
            *("No such column to group by", nothing, T, (*TRAIN, *HOSPITALS)),
            "--folds.group attribution: the metadata has no such column; name one it has",
            "Check the header of the table.",
        ),
        Case(
            *("A row without its group", some_hospitals, T, (*TRAIN, *HOSPITALS)),
            "ISIC_0007 has no attribution: folds need one for every row; fill it in or drop the row",
            "Fill in the column, or remove the row.",
        ),
        Case(
            *("A patient is in two folds of a given file", fold_file(lambda i: i % 3), T, FILE),
            "folds.csv: patient IP_0 is in 3 folds; keep a patient in one",
            "Give all rows of a patient one fold: otherwise the figures are too good.",
        ),
        Case(
            *("A given file lacks a lesion", fold_file(lambda i: i % 2, 39), T, FILE),
            "folds.csv: no fold (a whole number from 0 to 126) for ISIC_0040; add it",
            "Add a row `isic_id,fold`; folds of other lesions are ignored.",
        ),
        Case(
            *("A given file does not exist", nothing, T, FILE),
            "folds.csv: no such file; give the path of a CSV with the column isic_id",
            "Check the path after `--folds.file`.",
        ),
        Case(
            *("A fold that there is not", nothing, T, (*TRAIN, "--fold", "2")),
            "--fold must be all, or 0 to 1, not (2,)",
            "Folds count from 0; `--fold all` trains every one.",
        ),
    ],
    "Images": [
        Case(
            *("No images", no_images, T, TRAIN),
            "FOLDER/data has neither train-image.hdf5 nor train-image/image/: one of them must hold the images",
            "Put the competition's HDF5 file or its folder of JPEG files beside the table.",
        ),
        Case(
            *("A row without an image", change_row(0, "ISIC_9999"), T, TRAIN),
            "FOLDER/data/train-image/image: has no image 'ISIC_9999'; remove the row or add its image",
            "Add the image or remove the row. Images without a row are only counted.",
        ),
        Case(
            *("An image that is not whole", changed_image(lambda jpeg: jpeg[:-40]), T, TRAIN),
            f"image ISIC_0007 is cut short; {SOUND}",
            "Get the file again, or remove its row.",
        ),
        Case(
            *("An image of another format", changed_image(lambda jpeg: b"GIF89a" + jpeg), T, TRAIN),
            f"image ISIC_0007 is neither JPEG nor PNG; {SOUND}",
            "Save it as JPEG or PNG; the ending of a file's name changes nothing.",
        ),
        Case(
            *("An image of very many pixels", changed_image(claiming), T, TRAIN),
            f"image ISIC_0007 claims 30000 x 30000 pixels, where 1 to 25000000 are allowed; {SOUND}",
            "Save it smaller: the network sees a few hundred pixels a side. A progressive JPEG may have 16 million.",
        ),
        Case(
            *("An image that cannot be decoded", changed_image(without_tables), T, TRAIN),
            f"image ISIC_0007 cannot be decoded; {SOUND}",
            "Get the file again, or remove its row.",
            leaves=True,
        ),
        Case(
            *("An image that is a link to elsewhere", link_out_of_the_folder, T, TRAIN),
            "FOLDER/data/train-image/image: image ISIC_0007 is a link that leads out of the folder; "
            "replace it or remove its row",
            "Put the file itself there. Links within the folder are followed.",
        ),
        Case(
            *("An image that is no file", pipe, T, TRAIN),
            "FOLDER/data/train-image/image: image ISIC_0007 is not a regular file; replace it or remove its row",
            "Put a file there; pipes, devices and folders are not read.",
        ),
        Case(
            *("A link in the HDF5 file", link_out_of_the_file, T, TRAIN),
            "FOLDER/data/train-image.hdf5: image ISIC_0007 is a link to somewhere else; replace it or remove its row",
            "Write the bytes themselves: links and data in other files are never followed.",
        ),
        Case(
            *("An HDF5 file that is cut short", damaged_hdf5, T, TRAIN),
            "FOLDER/data/train-image.hdf5: not a readable HDF5 file (...); give the file of images or get it again",
            "Get the file again.",
        ),
        Case(
            *("Fewer rows than a batch", nothing, T, (*TRAIN, "--data.batch-size", "22")),
            "20 training rows do not fill one batch: lower --data.batch-size",
            "Lower `--data.batch-size`, or keep more negatives.",
        ),
    ],
    "Weights": [
        Case(
            *("The file does not exist", nothing, T, (*TRAIN, *WEIGHTS)),
            "--weights weights.safetensors: no such file (give imagenet, none or a .safetensors file)",
            "Check the path; `imagenet` downloads the weights once.",
        ),
        Case(
            *("The file cannot be read", garbled_weights, T, (*TRAIN, *WEIGHTS)),
            "weights.safetensors: not a readable safetensors file (...); give timm's model.safetensors",
            "Get the file again; files of PyTorch (`.bin`, `.pth`) are not read, since reading one may run code.",
        ),
        Case(
            *("The file is another model's", other_weights, T, (*TRAIN, *WEIGHTS)),
            "weights.safetensors: weights do not fit the model: missing: blocks.0.0.bn1.bias, "
            "blocks.0.0.bn1.running_mean, blocks.0.0.bn1.running_var and 88 more; "
            "wrong shape: conv_stem.weight (32, 3, 3, 3) for (8, 3, 3, 3); give weights of this very model",
            "Choose the `--model.variant` that the weights belong to.",
        ),
        Case(
            *("A weight that is not a number", infinite_weights, T, (*TRAIN, *WEIGHTS)),
            "weights.safetensors: weights do not fit the model: NaN or infinite: bn1.weight; "
            "give weights of this very model",
            "The training that made them went wrong: take an earlier checkpoint of it.",
        ),
    ],
    "Options": [
        Case(
            *("An option that does not exist", nothing, T, (*TRAIN, "--epoch", "3")),
            f"Unrecognized options: --epoch, 3; did you mean --epochs? {SEE}",
            "`--help` lists every option.",
        ),
        Case(
            *("A value of the wrong type", nothing, T, (*TRAIN, "--epochs", "five")),
            f"Error parsing --epochs: invalid literal for int() with base 10: 'five' {SEE}",
            "`--help` shows the type of every option.",
        ),
        Case(
            *("A value out of range", nothing, T, (*TRAIN, "--sampling.negatives-kept", "0")),
            "--sampling.negatives-kept must be a fraction in (0, 1], not 0.0",
            "Stay in the range.",
        ),
        Case(
            *("A preset that does not exist", nothing, T, ("--preset", "best")),
            "--preset best: choose from default, paper, baseline, demo",
            "Choose one of them.",
        ),
        Case(
            *("A preset without data", nothing, T, ("--preset", "paper")),
            "--preset paper needs --data-dir, the folder with train-metadata.csv (only demo does without)",
            "Give `--data-dir`; without data only the demo runs, on drawn lesions.",
        ),
        Case(
            *("Two options that replace one another", nothing, T, (*TRAIN, "--sampling.negatives-per-positive", "3")),
            "--sampling.negatives-kept and --sampling.negatives-per-positive replace one another: give one of them",
            "Give one of them; it replaces the preset's, whichever that is.",
        ),
        Case(
            *("Half of what several processes need", nothing, T, (*TRAIN, "--distributed.processes", "2")),
            "--distributed.coordinator, --distributed.processes and --distributed.index go together: "
            "give all three, or none under a launcher",
            "Give each process all three, the same but for its index.",
        ),
        Case(
            *("An index that there is not", nothing, T, (*TRAIN, *TOGETHER, "--distributed.index", "2")),
            "--distributed.index must be 0 to 1, not 2",
            "Indices count from 0.",
        ),
        Case(
            *("A coordinator without a port", nothing, T, (*TRAIN, *TOGETHER, "--distributed.coordinator", "host")),
            "--distributed.coordinator must be HOST:PORT, not host",
            "Give the address of the first process, as the others reach it, and a free port there.",
        ),
        Case(
            *("A frozen backbone of random weights", nothing, T, (*TRAIN, "--model.freeze")),
            "--model.freeze trains a classifier on the backbone's features: random weights have none to offer",
            "Give `--weights imagenet` or a file.",
        ),
    ],
    "Runs": [
        Case(
            *("`--resume` of nothing", nothing, T, (*OURS, "--resume")),
            "--resume: run holds no run; give --run-dir the folder of the run to go on with, "
            "or the whole command with --data-dir to begin it",
            "Check the path: a run's folder has a `config.json`.",
        ),
        Case(
            *("`--run-dir` is a folder of something else", a_full_folder, T, TRAIN),
            "run exists and is not a run: give another --run-dir, or empty it",
            "Name a folder that is new or empty.",
        ),
        Case(
            *("Going on with other data", a_run_and_other_data, T, OURS),
            "run was trained on other metadata (SHA-256 73e75d0d4ed3..., here 29ab1697a258...): "
            "give the very same files",
            "Put the old files back, or train the new ones into another `--run-dir`.",
        ),
        Case(
            *("Going on with another option", a_run, T, (*OURS, "--epochs", "2")),
            "run was trained with --epochs 1, not 2: leave that option out, or give another --run-dir",
            "A run remembers its options: give `--run-dir` and `--fold` or `--resume` alone.",
        ),
        Case(
            *("A fold that is finished", a_finished_fold, T, OURS),
            "run: fold 0 is finished: train another fold, or give another --run-dir",
            "Train another fold, or the same one into another `--run-dir`.",
        ),
        Case(
            *("A fold that was begun", a_started_fold, T, OURS),
            "run: fold 0 is started: go on with it by --resume, or give another --run-dir",
            "Add `--resume`.",
        ),
        Case(
            *("`config.json` has a key that does not exist", changed_config(pace=3), T, OURS),
            "run/config.json: there is no option pace; remove it or use the version that wrote it",
            "`manifest.json` beside it names the version that wrote it.",
        ),
        Case(
            *("`config.json` has a value of the wrong type", changed_config(epochs="five"), T, OURS),
            "run/config.json: epochs is 'five', which this option cannot be; put back what training wrote",
            "Undo the change: options are given on the command line.",
        ),
    ],
    "Evaluation": [
        Case(
            *("Neither a run nor predictions", nothing, E, ()),
            "give one of --run, a run's folder, and --predictions, a CSV",
            "Give one of the two.",
        ),
        Case(
            *("A folder that is no run", nothing, E, ("--run", "data")),
            "data is not a run: it has no config.json; give the folder that training wrote",
            "Training prints the folder of its run at the end.",
        ),
        Case(
            *("No fold is finished", a_started_fold, E, ("--run", "run")),
            "run has no finished fold yet: train one first",
            "Go on with the run by `--resume`.",
        ),
        Case(
            *("The predictions do not exist", nothing, E, OOF),
            "oof.csv: no such file; give the path of a CSV with the column isic_id",
            "Check the path after `--predictions`.",
        ),
        Case(
            *("A prediction outside [0, 1]", predictions(1.5), E, OOF),
            "oof.csv: line 3: prediction of ISIC_0002 is '1.5', not in [0, 1]",
            "Predictions are probabilities of malignancy; pass logits through a sigmoid first.",
        ),
        Case(
            *("No column of predictions", predictions(0.5, "isic_id,score,target"), E, OOF),
            "oof.csv: the column prediction is missing (it begins with 'isic_id, score, target')",
            "Rename the column.",
        ),
        Case(
            *("No targets to score against", predictions(0.5, "isic_id,prediction,truth"), E, OOF),
            "oof.csv: ISIC_0001 has no target; give --metadata a CSV that has them",
            "Give `--metadata train-metadata.csv`.",
        ),
    ],
    "Prediction": [
        Case(
            *("A part that does not exist", nothing, predict.main, (*PARTS, "4/4")),
            "--part 4/4: give I/N, such as 0/4 to 3/4 for four processes",
            "The parts are counted from 0.",
        ),
        Case(
            *("Decoded images are to be kept by several parts", nothing, predict.main, (*PARTS, "0/4", "--cache")),
            "--cache is for the images of --data-dir, predicted in one part: leave it out",
            "Several processes cannot fill one file.",
        ),
        Case(
            *("Neither lesions nor images", nothing, P, OF_RUN),
            "give one of --data-dir, a folder with test-metadata.csv, and --image, some files",
            "Give one of the two.",
        ),
        Case(
            *("An image that does not exist", a_finished_fold, P, (*OF_RUN, "--image", "lesion.jpg")),
            "lesion.jpg: no such file; give image files",
            "Check the path.",
        ),
        Case(
            *("No table of test rows", a_finished_fold, P, (*OF_RUN, "--data-dir", "data")),
            "data has no test-metadata.csv: give --data-dir the folder that holds it",
            "Only the column `isic_id` is needed.",
        ),
        Case(
            *("A test row that could be a path", a_finished_fold_and_test_rows("../ISIC_0007"), P),
            (*OF_RUN, "--data-dir", "data"),
            "data/test-metadata.csv: line 2: isic_id '../ISIC_0007' "
            "is not 1 to 64 of A-Z a-z 0-9 _ . -, letter or digit first",
            "Rename the lesion, in the table and among the images.",
        ),
        Case(
            *("A test row without an image", a_finished_fold_and_test_rows("ISIC_9999"), P),
            (*OF_RUN, "--data-dir", "data"),
            "data/test-image/image: has no image 'ISIC_9999'; remove the row or add its image",
            "Add the image or remove the row.",
        ),
    ],
    "Nearest neighbours": [
        Case(
            *("Neither data nor a run", nothing, K, ()),
            "give --data-dir, the folder with train-metadata.csv, or --run, the folder of a run",
            "Give one of the two.",
        ),
        Case(
            *("No neighbours", nothing, K, (*NEIGHBOURS, "metadata", "--k", "0")),
            "--k must be at least 1, not 0",
            "Stay in the range.",
        ),
        Case(
            *("No column to search by", nothing, K, (*NEIGHBOURS, "metadata")),
            "the metadata has no column to search by beyond ids, targets and diagnoses; use other --features",
            "Give `--features embedding` or `pixels`, or a table with more columns.",
        ),
        Case(
            *("A number that is too large", column("age", lambda i: "1e308" if i % 3 else "-1e308"), K),
            (*NEIGHBOURS, "metadata"),
            "age of ISIC_0001 is -1e+308, too large to be scaled; correct it or leave it empty",
            "Correct the cell, or leave it empty: it becomes the median then.",
        ),
        Case(
            *("An image that is not whole", changed_image(lambda jpeg: jpeg[:-40]), K, (*NEIGHBOURS, "pixels")),
            f"image ISIC_0007 is cut short; {SOUND}",
            "Get the file again, or remove its row.",
        ),
    ],
    "Duplicates": [
        Case(
            *("Neither data nor a run", nothing, D, ()),
            "give --data-dir, a folder with train-metadata.csv, or --run, a run's folder",
            "Give one of the two.",
        ),
        Case(
            *("An image that cannot be decoded", changed_image(without_tables), D),
            ("--data-dir", "data", "--out", "duplicates.csv"),
            f"image ISIC_0007 cannot be decoded; {SOUND}",
            "Get the file again, or remove its row.",
        ),
    ],
    "Report": [
        Case(
            *("No fold is finished", a_started_fold, R, OF_RUN),
            "run has no finished fold yet: train one first",
            "Go on with the run by `--resume`.",
        ),
        Case(
            *("Predictions of other rows", a_finished_fold_without_its_rows, R, OF_RUN),
            "run/oof.csv: does not hold the very rows of folds.csv: write it anew by train --resume",
            "Training writes `oof.csv` from the folds' own.",
        ),
    ],
}
CASES = [case for group in GROUPS.values() for case in group]


@contextlib.contextmanager
def workplace(make: Callable[[], object], folder: Path) -> Iterator[None]:
    """Work in `folder`, among good files that `make` has changed."""
    with contextlib.chdir(folder):
        good_files()
        make()
        yield


def contents() -> dict[str, bytes | None]:
    """Every file and folder but ckpt, where the cache of decoded images may have been opened."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in Path().rglob("*") if p.parts[0] != "ckpt"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_one_line_exit_code_2_and_nothing_half_written(case, tmp_path, capfd):
    with workplace(case.make, tmp_path):
        before = contents()
        with pytest.raises(SystemExit) as left:
            case.program(list(case.argv))
        after, here = contents(), str(Path.cwd())
    assert left.value.code == 2
    heard = capfd.readouterr().err.replace(here, "FOLDER")
    assert re.fullmatch(re.escape(f"error: {case.message}\n").replace(re.escape("..."), ".*"), heard)
    assert before.items() <= after.items()
    assert (after != before) == case.leaves


def rendered() -> str:
    """The document."""
    parts = [INTRODUCTION]
    for title, cases in GROUPS.items():
        rows = ["| what | message | what to do |", "|---|---|---|"]
        rows += [f"| {c.what} | `{c.message}` | {c.remedy}{RUN_STAYS * c.leaves} |" for c in cases]
        parts.append("\n".join([f"## {title}", *rows, ""]))
    return "\n".join(parts)


def test_the_document_is_what_the_table_says():
    assert DOCUMENT.read_text() == rendered(), "write it anew: python tests/test_errors.py --write"


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    DOCUMENT.write_text(rendered())
