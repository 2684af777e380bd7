"""Mistakes in weights and options."""

from pathlib import Path

import numpy as np
from errors.case import TRAIN, Case, nothing

from jaxlesion import train
from jaxlesion.model.port import read_safetensors, write_safetensors


def infinite_weights() -> None:
    state = read_safetensors(Path(__file__).resolve().parents[2] / "model" / "golden" / "state.safetensors")
    write_safetensors("weights.safetensors", state | {"bn1.weight": np.full(8, np.nan, np.float32)})


def other_weights() -> None:
    write_safetensors("weights.safetensors", {"conv_stem.weight": np.zeros((32, 3, 3, 3), np.float32)})


def garbled_weights() -> None:
    Path("weights.safetensors").write_bytes(b"no weights")


SEE = "(see python -m jaxlesion.train --help-all)"
WEIGHTS = ("--weights", "weights.safetensors")
TOGETHER = (*("--distributed.coordinator", "127.0.0.1:1", "--distributed.processes", "2", "--distributed.index", "0"),)


GROUPS = {
    "Weights": [
        Case(
            *("The file does not exist", nothing, train.main, (*TRAIN, *WEIGHTS)),
            "--weights weights.safetensors: no such file (give imagenet, none or a .safetensors file)",
            "Check the path; `imagenet` downloads the weights once.",
        ),
        Case(
            *("The file cannot be read", garbled_weights, train.main, (*TRAIN, *WEIGHTS)),
            "weights.safetensors: not a readable safetensors file (...); give timm's model.safetensors",
            "Get the file again; files of PyTorch (`.bin`, `.pth`) are not read, since reading one may run code.",
        ),
        Case(
            *("The file is another model's", other_weights, train.main, (*TRAIN, *WEIGHTS)),
            "weights.safetensors: weights do not fit the model: missing: blocks.0.0.bn1.bias, "
            "blocks.0.0.bn1.running_mean, blocks.0.0.bn1.running_var and 88 more; "
            "wrong shape: conv_stem.weight (32, 3, 3, 3) for (8, 3, 3, 3); give weights of this very model",
            "Choose the `--model.variant` that the weights belong to.",
        ),
        Case(
            *("A weight that is not a number", infinite_weights, train.main, (*TRAIN, *WEIGHTS)),
            "weights.safetensors: weights do not fit the model: NaN or infinite: bn1.weight; "
            "give weights of this very model",
            "The training that made them went wrong: take an earlier checkpoint of it.",
        ),
    ],
    "Options": [
        Case(
            *("Ghost batches of unequal size", nothing, train.main, (*TRAIN, "--model.ghost-batches", "3")),
            "--model.ghost-batches 3 does not divide --data.batch-size 20: give another",
            "Each part of a batch needs as many images as the others.",
        ),
        Case(
            *("An address", nothing, train.main, (*TRAIN, "--data-dir", "s3://bucket/data")),
            "--data-dir s3://bucket/data: is an address, and only files and folders are used: download it or mount it "
            "first, and give the path",
            "Files are read at random places, locked, renamed and linked.",
        ),
        Case(
            *(
                "A folder that cannot be made",
                nothing,
                train.main,
                (*TRAIN, "--run-dir", "data/train-metadata.csv/run"),
            ),
            "--run-dir data/train-metadata.csv/run: data/train-metadata.csv is not a folder; give another path",
            "Give a folder that is not there yet.",
        ),
        Case(
            *("Neither the data nor the weights", nothing, train.main, ("--data-dir", "absent", "--run-dir", "run")),
            "FOLDER/absent is not a folder: give --data-dir the one that holds train-metadata.csv",
            "The folder comes first.",
        ),
        Case(
            *("An option that does not exist", nothing, train.main, (*TRAIN, "--epoch", "3")),
            f"Unrecognized options: --epoch, 3; did you mean --epochs? {SEE}",
            "`--help-all` lists every option.",
        ),
        Case(
            *("A value of the wrong type", nothing, train.main, (*TRAIN, "--epochs", "five")),
            f"Error parsing --epochs: invalid literal for int() with base 10: 'five' {SEE}",
            "`--help-all` shows the type of every option.",
        ),
        Case(
            *("A value out of range", nothing, train.main, (*TRAIN, "--sampling.negatives-kept", "0")),
            "--sampling.negatives-kept must be a fraction in (0, 1], not 0.0",
            "Stay in the range.",
        ),
        Case(
            *("A preset that does not exist", nothing, train.main, ("--preset", "finest")),
            "--preset finest: choose from default, paper, best, baseline, demo",
            "Choose one of them.",
        ),
        Case(
            *("A preset without data", nothing, train.main, ("--preset", "paper")),
            "--preset paper needs --data-dir, the folder with train-metadata.csv (only demo does without)",
            "Give `--data-dir`; without data only the demo runs, on drawn lesions.",
        ),
        Case(
            *(
                "Two options that replace one another",
                nothing,
                train.main,
                (*TRAIN, "--sampling.negatives-per-positive", "3"),
            ),
            "--sampling.negatives-kept and --sampling.negatives-per-positive replace one another: give one of them",
            "Give one of them; it replaces the preset's, whichever that is.",
        ),
        Case(
            *("Half of what several processes need", nothing, train.main, (*TRAIN, "--distributed.processes", "2")),
            "--distributed.coordinator, --distributed.processes and --distributed.index go together: "
            "give all three, or none under a launcher",
            "Give each process all three, the same but for its index.",
        ),
        Case(
            *("An index that there is not", nothing, train.main, (*TRAIN, *TOGETHER, "--distributed.index", "2")),
            "--distributed.index must be 0 to 1, not 2",
            "Indices count from 0.",
        ),
        Case(
            *(
                "A coordinator without a port",
                nothing,
                train.main,
                (*TRAIN, *TOGETHER, "--distributed.coordinator", "host"),
            ),
            "--distributed.coordinator must be HOST:PORT, not host",
            "Give the address of the first process, as the others reach it, and a free port there.",
        ),
        Case(
            *("A frozen backbone of random weights", nothing, train.main, (*TRAIN, "--model.freeze")),
            "--model.freeze trains a classifier on the backbone's features: random weights have none to offer",
            "Give `--weights imagenet` or a file.",
        ),
    ],
}
