"""Mistakes about the folder of a run and its figures."""

import json
from collections.abc import Callable
from pathlib import Path

from errors.case import (
    OF_RUN,
    TRAIN,
    Case,
    a_finished_fold,
    a_model_of_all_rows,
    a_run,
    a_started_fold,
    change_row,
    nothing,
)

from jaxlesion import evaluate, report, train
from jaxlesion.core.fields import replace, to_dict
from jaxlesion.core.files import write_atomic


def a_run_and_other_data() -> None:
    a_run()
    change_row(1, 1)()


def a_run_of_weights() -> None:
    run = a_run()
    write_atomic(run.folder / "config.json", json.dumps(to_dict(replace(run.config, {"weights": "gone.safetensors"}))))
    sha = {"weights": {"name": "gone.safetensors", "sha256": "0123456789abcdef"}}
    write_atomic(run.folder / "manifest.json", json.dumps(run.manifest | sha))


def a_finished_fold_without_its_rows() -> None:
    a_finished_fold()
    Path("run/oof.csv").write_text("isic_id,prediction,target,fold\nISIC_0001,0.5,0,0\n")


def changed_config(**changes: object) -> Callable[[], None]:
    def change() -> None:
        path = a_run().folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def a_full_folder() -> None:
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")


OURS = ("--run-dir", "run")
OOF = ("--predictions", "oof.csv")


def predictions(cell: object, header: str = "isic_id,prediction,target") -> Callable[[], None]:
    def write() -> None:
        Path("oof.csv").write_text(f"{header}\nISIC_0001,0.5,0\nISIC_0002,{cell},1\n")

    return write


GROUPS = {
    "Runs": [
        Case(
            *("Weights that are gone", a_run_of_weights, train.main, ("--run-dir", "run")),
            "run: the weights that it was begun from (gone.safetensors, SHA-256 0123456789ab...) are not there any "
            "more: give --weights that file",
            "It may lie elsewhere now; folds with a checkpoint resume without it.",
        ),
        Case(
            *("`--resume` of nothing", nothing, train.main, (*OURS, "--resume")),
            "--resume: run holds no run; give --run-dir the folder of the run to resume, "
            "or the whole command with --data-dir to begin it",
            "Check the path: a run's folder has a `config.json`.",
        ),
        Case(
            *("`--run-dir` is a folder of something else", a_full_folder, train.main, TRAIN),
            "run exists and is not a run: give another --run-dir, or empty it",
            "Name a folder that is new or empty.",
        ),
        Case(
            *("Going on with other data", a_run_and_other_data, train.main, OURS),
            "run was trained on other metadata (SHA-256 73e75d0d4ed3..., here 29ab1697a258...): "
            "give the very same files",
            "Put the old files back, or train the new ones into another `--run-dir`.",
        ),
        Case(
            *("Going on with another option", a_run, train.main, (*OURS, "--epochs", "2")),
            "run was trained with --epochs 1, not 2: leave that option out, or give another --run-dir",
            "A run remembers its options: give `--run-dir` and `--fold` or `--resume` alone.",
        ),
        Case(
            *("A fold that is finished", a_finished_fold, train.main, OURS),
            "run: fold 0 is finished: train another fold, or give another --run-dir",
            "Train another fold, or the same one into another `--run-dir`.",
        ),
        Case(
            *("A fold that was begun", a_started_fold, train.main, OURS),
            "run: fold 0 is started: resume it by --resume, or give another --run-dir",
            "Add `--resume`.",
        ),
        Case(
            *("`config.json` has a key that does not exist", changed_config(pace=3), train.main, OURS),
            "run/config.json: there is no option pace; remove it or use the version that wrote it",
            "`manifest.json` beside it names the version that wrote it.",
        ),
        Case(
            *("`config.json` has a value of the wrong type", changed_config(epochs="five"), train.main, OURS),
            "run/config.json: epochs is 'five', which this option cannot be; put back what training wrote",
            "Undo the change: options are given on the command line.",
        ),
    ],
    "Evaluation": [
        Case(
            *("An output that is read", predictions(0.5), evaluate.main, (*OOF, "--out", "./oof.csv")),
            "--out oof.csv: this command reads that very file; give another path",
            "Give the output a name of its own; `-` is standard output.",
        ),
        Case(
            *("An output that is a folder", predictions(0.5), evaluate.main, (*OOF, "--json", "data")),
            "--json data: is a folder; give a file in it",
            "Give a file.",
        ),
        Case(
            *("Two outputs of one name", predictions(0.5), evaluate.main, (*OOF, "--json", "x", "--out", "./x")),
            "--json x: --out is written there too; give another path",
            "Give each its own.",
        ),
        Case(
            *("Neither a run nor predictions", nothing, evaluate.main, ()),
            "give one of --run, a run's folder, and --predictions, a CSV",
            "Give one of the two.",
        ),
        Case(
            *("A folder that is no run", nothing, evaluate.main, ("--run", "data")),
            "data is not a run: it has no config.json; give the folder that training wrote",
            "Training prints the folder of its run at the end.",
        ),
        Case(
            *("No fold is finished", a_started_fold, evaluate.main, ("--run", "run")),
            "run has no finished fold yet: train one first",
            "Go on with the run by `--resume`.",
        ),
        Case(
            *("The model of all rows alone", a_model_of_all_rows, evaluate.main, ("--run", "run")),
            "run has the model of all rows alone, and it held no rows out: train folds by train --fold all, or "
            "evaluate it on another --data-dir",
            "A model is scored on rows that it was not trained on.",
        ),
        Case(
            *("The predictions do not exist", nothing, evaluate.main, OOF),
            "oof.csv: no such file; give the path of a table (CSV, .csv.gz or Parquet)",
            "Check the path after `--predictions`.",
        ),
        Case(
            *("A prediction outside [0, 1]", predictions(1.5), evaluate.main, OOF),
            "oof.csv: line 3: prediction of ISIC_0002 is '1.5', not in [0, 1]",
            "Predictions are probabilities of malignancy; pass logits through a sigmoid first.",
        ),
        Case(
            *("No column of predictions", predictions(0.5, "isic_id,score,target"), evaluate.main, OOF),
            "oof.csv: the column prediction is missing (it begins with 'isic_id, score, target')",
            "Rename the column.",
        ),
        Case(
            *("No targets to score against", predictions(0.5, "isic_id,prediction,truth"), evaluate.main, OOF),
            "oof.csv: ISIC_0001 has no target; give --metadata a CSV that has them",
            "Give `--metadata train-metadata.csv`.",
        ),
    ],
    "Report": [
        Case(
            *("No fold is finished", a_started_fold, report.main, OF_RUN),
            "run has no finished fold yet: train one first",
            "Go on with the run by `--resume`.",
        ),
        Case(
            *("Predictions of other rows", a_finished_fold_without_its_rows, report.main, OF_RUN),
            "run/oof.csv: does not hold the very rows of folds.csv: rebuild it by train --resume",
            "Training writes `oof.csv` from the folds' own.",
        ),
    ],
}
