"""python -m jaxlesion.predict: the mean of a run's folds, or its model of all rows, on new lesions."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from jaxlesion.core.config import Layout
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import is_stream
from jaxlesion.core.hooks import Hooks
from jaxlesion.data.open import open_dataset
from jaxlesion.data.predictions import write_predictions, write_submission
from jaxlesion.data.schema import KEYS
from jaxlesion.inference.engines import EngineName
from jaxlesion.inference.experts import check_views
from jaxlesion.inference.shards import ROWS, Part
from jaxlesion.inference.tables import PredictOptions, predict_dataset, predict_files, predict_table
from jaxlesion.runs.released import describe, open_released
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.outputs import check_outputs
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.streams import printable
from jaxlesion.ui.terminal import say


@dataclass(frozen=True)
class PredictConfig:
    """Predict lesions that a run has not seen, by the mean of its finished folds or by its model of all rows."""

    run: Path | None = None
    """Folder of a run [default: the released model, ckpt/best-b1 of the clone]."""
    data_dir: Path | None = None
    """Folder with test-metadata.csv (only isic_id is needed) and test-image.hdf5 (or test-image/image/), or a folder of
    images. A run on metadata needs the table alone, with all columns."""
    data: Layout = field(default_factory=Layout)
    image: tuple[str, ...] = ()
    """Single image files: a line is printed for each, in this order."""
    out: Path | None = None
    """Write the predictions there, as CSV, rows in the order of the test file [default: predictions.csv]; - is standard
    output."""
    submission: Path | None = None
    """Write the competition's form there too: isic_id,target. - is standard output."""
    explain: Path | None = None
    """For trees: write the five features that moved each prediction most there, as CSV."""
    fold: Literal["all", "none"] | None = None
    """all: the mean of the finished folds; none: the model of all rows [default: all if a fold is finished]."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of each fold predicts."""
    tta: Literal[1, 8] = 1
    """Views of each image whose logits are averaged: 8 for its exact mirrors and quarter turns, at 8 times the cost."""
    engine: EngineName = "auto"
    """What runs the networks: auto is onnxruntime on a CPU where it is installed, else jax. openvino-bf16 is
    faster where the CPU multiplies bfloat16, and not exact: docs/export.md."""
    calibrated: bool = False
    """Correct the prior of each fold and apply intercept and slope that the run stored; model in the table says so."""
    batch_size: int | None = None
    """Images per step [default: the run's]. No prediction depends on it."""
    shard_rows: int = ROWS
    """Rows that are written at a time, beside --out: a kill loses no more. Rounded up to whole batches."""
    cache: bool = False
    """Keep the decoded images in ckpt/cache, and read what is there: for further predictions of the same images."""
    part: str | None = None
    """I/N, I from 0: make every N-th shard only. Who finishes last merges [default: as srun or mpirun says]."""


def predict(config: PredictConfig) -> None:
    """Predict and write.

    Raises:
        InputError: neither or both of --data-dir and --image; or whatever is wrong with run, images or options.
    """
    if (config.data_dir is None) == (not config.image):
        raise InputError("give one of --data-dir, a folder with test-metadata.csv, and --image, some files")
    if config.shard_rows < 1:
        raise InputError(f"--shard-rows must be at least 1, not {config.shard_rows}")
    part = Part.of(config.part, os.environ)
    if config.cache and (config.image or part.count > 1):  # several processes cannot fill one file
        raise InputError("--cache is for the images of --data-dir, predicted in one part: leave it out")
    run = open_released() if config.run is None else Run.open(config.run)
    unnamed, config = config.run is None, replace(config, run=run.folder)
    out = config.out if config.image else config.out or Path("predictions.csv")
    in_stdout = check_outputs({"--out": out, "--submission": config.submission, "--explain": config.explain}, config)
    if part.count > 1 and is_stream(out):
        raise InputError(f"--out {out}: parts are merged from files beside it; give a file")
    how = (config.checkpoint, config.calibrated, config.batch_size, config.shard_rows, config.cache, part)
    options = PredictOptions(*how, views=config.tta, fold=config.fold, engine=config.engine)
    if unnamed:
        say(describe(run))
    for note in run.calibration().notes() if config.calibrated else ():
        say(note)
    if config.explain is not None and run.kind != "tabular":
        raise InputError(f"--explain is for trees, and {run.folder} is a {run.kind} run: leave it out")
    if run.kind != "network":
        _check_table(config, run, part)
        hooks = Hooks(say, ProgressBar)
        predict_table(run, config.data_dir, config.data, out, config.submission, options, hooks, config.explain)
        return
    if not config.image:
        dataset = open_dataset(config.data_dir, "test", config.data, columns=KEYS, say=say)
        predict_dataset(run, dataset, out, config.submission, options, Hooks(say, ProgressBar))
        return
    table, name = predict_files(run, [Path(path) for path in config.image], options, ProgressBar)
    for path, probability in zip(config.image, table["prediction"], strict=True):
        # Not through rich, which would turn the tab into spaces.
        print(f"{printable(path)}\t{probability:.6g}", file=sys.stderr if in_stdout else sys.stdout)
    if config.out is not None:
        write_predictions(config.out, table)
        say(f"{len(table):,} predictions in {config.out}, by the {name}")
    if config.submission is not None:
        rows = zip(table["isic_id"], map(str, table["prediction"].to_numpy()), strict=True)
        write_submission(config.submission, rows)
        say(f"submission in {config.submission}")


def _check_table(config: PredictConfig, run: Run, part: Part) -> None:
    """Raise InputError for options that a run of another kind than a network cannot take."""
    if config.image:
        raise InputError(f"{run.folder} is a {run.kind} run, which predicts the rows of a table: give --data-dir")
    if config.fold == "none" or part.count > 1:
        raise InputError(f"{run.folder} is a {run.kind} run: it predicts by all folds, in one part")
    check_views(run, tta=config.tta > 1, checkpoint=config.checkpoint == "best", cache=config.cache)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.predict`."""
    prepare_process()
    run_program(lambda: predict(parse(PredictConfig, arguments(argv), "predict")))


if __name__ == "__main__":
    main()
