"""python -m jaxlesion.outliers: how unlike a lesion looks to the others of its patient, by images alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from jaxlesion.core.config import DataConfig, FoldsConfig, ModelConfig
from jaxlesion.core.files import write_atomic
from jaxlesion.core.hooks import Hooks
from jaxlesion.core.outputs import check_folder
from jaxlesion.data.predictions import write_predictions
from jaxlesion.evaluation.summary import EvalOptions, Summary, notes_on, summarise
from jaxlesion.inference.knn import KnnOptions
from jaxlesion.inference.outliers import outliers
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import print_summary
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.outputs import check_outputs
from jaxlesion.ui.progress import ProgressBar, progress
from jaxlesion.ui.terminal import say, show

PREDICTIONS, DISTANCES = "ugly-duckling.csv", "distances.csv"


@dataclass(frozen=True)
class OutliersConfig:
    """Compare each lesion with the others of its patient by images alone: the ugly duckling sign."""

    data_dir: Path | None = None
    """Folder with train-metadata.csv and train-image.hdf5 (or train-image/image/<isic_id>.jpg)."""
    run: Path | None = None
    """Folder of a run: its data and folds, and the network of each fold, at its last checkpoint."""
    weights: str = "imagenet"
    """imagenet, a .safetensors file in timm's names, or none for random weights."""
    fold: tuple[int, ...] | Literal["all"] = "all"
    """Folds to compare: 0, or 0 1 2, or all."""
    data: DataConfig = field(default_factory=DataConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    bootstrap: int = 2000
    """Draws for the intervals, of patients. 0 for no intervals."""
    out: Path | None = None
    """Write a Predictions table of the ranks into this folder, and the distances beside it."""


def find_outliers(config: OutliersConfig) -> Summary:
    """Print how well the rank within the patient tells malignant lesions, and write ranks and distances.

    Raises:
        InputError: whatever about options, data, weights or run the caller must put right.
    """
    if config.out is not None:
        check_folder("--out", config.out)
        if config.out.is_dir():
            check_outputs({f"--out, {name}:": config.out / name for name in (PREDICTIONS, DISTANCES)}, config)
    same = ("data_dir", "run", "weights", "fold", "data", "folds", "model")
    table, found = outliers(KnnOptions(**{name: getattr(config, name) for name in same}), Hooks(say, ProgressBar))
    with progress("bootstrap") as tick:
        options = EvalOptions(resamples=config.bootstrap, tick=tick)
        summary = summarise({"rank within the patient": table}, "", options)
    print_summary(summary)
    for note in notes_on(options, table, ()):
        show(note)
    if config.out is not None:
        _write(config.out, table, found)
    return summary


def _write(folder: Path, table: pd.DataFrame, found: pd.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS, table)
    write_atomic(folder / DISTANCES, found.to_csv(index=False, lineterminator="\n"))
    say(f"ranks in {folder / PREDICTIONS}, distances in {folder / DISTANCES}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.outliers`."""
    prepare_process()
    run_program(lambda: find_outliers(parse(OutliersConfig, arguments(argv), "outliers")))


if __name__ == "__main__":
    main()
