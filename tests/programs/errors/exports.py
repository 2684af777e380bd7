"""Mistakes in exporting a trained network."""

from pathlib import Path

from errors.case import Case, a_finished_fold, nothing

from jaxlesion import export, predict
from jaxlesion.runs.store import Run

RUN = ("--run", "run")


def two_finished_folds() -> None:
    """Finish two folds."""
    a_finished_fold()
    fold = Run.open(Path("run")).fold(1)
    fold.checkpoints.mkdir(parents=True)
    fold.oof.write_text("isic_id,prediction\n")


GROUPS = {
    "Export": [
        Case(
            *("timm takes one network", two_finished_folds, export.main, ("--to", "timm", *RUN)),
            "--to timm takes one network, and run has folds 0, 1: give --fold one of them",
            "ONNX and StableHLO hold the mean of several; timm's folder holds one.",
        ),
        Case(
            *("timm has not this network", a_finished_fold, export.main, ("--to", "timm", *RUN)),
            "timm has no network tiny: export it by --to onnx",
            "timm has B0 to B3.",
        ),
        Case(
            *("A fold that is not finished", a_finished_fold, export.main, ("--to", "onnx", "--fold", "3", *RUN)),
            "--fold 3: run has finished 0; give one of them",
            "Train the fold first, or export another.",
        ),
        Case(
            *("An upload of something else", nothing, export.main, ("--to", "onnx", "--push", "someone/lesions")),
            "--push uploads what --to hub writes, not --to onnx",
            "Use `--to hub`.",
        ),
        Case(
            *("An address that is none", nothing, predict.main, ("--run", "hf://lesions", "--image", "a.jpg")),
            "hf://lesions: give hf://USER/NAME, or hf://USER/NAME@REVISION",
            "Copy the name from the page of the model.",
        ),
        Case(
            *("The file would replace a folder", lambda: Path("out").mkdir(), export.main),
            ("--to", "onnx", "--out", "out"),
            "--out out: is a folder; give a file in it",
            "ONNX and StableHLO are files; timm's and the hub's are folders.",
        ),
    ],
}
