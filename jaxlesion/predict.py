"""python -m jaxlesion.predict: the mean of a run's folds on new lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from jaxlesion.cli import arguments, parse
from jaxlesion.console import run_program, say
from jaxlesion.data.images import FileImages
from jaxlesion.data.layout import fingerprint, open_dataset
from jaxlesion.data.loader import Batches, open_batches
from jaxlesion.data.predictions import write_predictions, write_submission
from jaxlesion.errors import InputError
from jaxlesion.inference import data_config, predict_ensemble
from jaxlesion.runs import Run


@dataclass(frozen=True)
class PredictConfig:
    """Predict lesions that a run has not seen, by the mean of its finished folds."""

    run: Path
    """Folder of a run."""
    data_dir: Path | None = None
    """Folder with test-metadata.csv (only isic_id is needed) and test-image.hdf5 (or test-image/image/)."""
    image: tuple[Path, ...] = ()
    """Single image files, JPEG or PNG: a line is printed for each."""
    out: Path | None = None
    """Write the predictions there, as CSV, rows in the order of the test file [default: predictions.csv]."""
    submission: Path | None = None
    """Write the competition's form there too: isic_id,target."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of each fold predicts."""
    calibrated: bool = False
    """Correct the prior of each fold and apply the temperature that the run stored; model in the table says so."""
    batch_size: int | None = None
    """Images per step [default: the run's]. No prediction depends on it."""


def predict(config: PredictConfig) -> pd.DataFrame:
    """Predict, write and return the Predictions table.

    Raises:
        InputError: neither or both of --data-dir and --image; or whatever is wrong with run or images.
    """
    if (config.data_dir is None) == (not config.image):
        raise InputError("give one of --data-dir, a folder with test-metadata.csv, and --image, some files")
    run = Run.open(config.run)
    how = data_config(run, config.batch_size)
    if config.image:
        images = FileImages(config.image)
        lesions = pd.DataFrame({"isic_id": list(images.ids)})
        batches = Batches(images, lesions["isic_id"], None, how)
    else:
        dataset = open_dataset(config.data_dir, "test")
        lesions = dataset.lesions
        batches = open_batches(how, lesions, dataset, fingerprint(dataset)["images"])
    table = predict_ensemble(run, lesions, batches, config.checkpoint, calibrated=config.calibrated)
    if config.image:
        for path, probability in zip(table["isic_id"], table["prediction"], strict=True):
            print(f"{path}\t{probability:.6g}")  # not through rich, which would turn the tab into spaces
    if config.out is not None or not config.image:
        out = config.out or Path("predictions.csv")
        write_predictions(out, table)
        say(f"{len(table):,} predictions in {out}, by the {table['model'].iloc[0]}")
    if config.submission is not None:
        write_submission(config.submission, table)
        say(f"submission in {config.submission}")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m jaxlesion.predict`."""
    run_program(lambda: predict(parse(PredictConfig, arguments(argv), "predict")))


if __name__ == "__main__":
    main()
