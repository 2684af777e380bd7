"""Predictions whose targets are known, to evaluate: from a CSV, or made by the checkpoints of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import Meter
from jaxlesion.data.batches import open_batches
from jaxlesion.data.dataset import Dataset, fingerprint, open_dataset
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.predictions import CALIBRATED, as_written, concatenate, read_predictions
from jaxlesion.data.schema import KEYS
from jaxlesion.evaluation import subgroups
from jaxlesion.evaluation.calibration import Calibration
from jaxlesion.evaluation.clinic import Probabilities
from jaxlesion.evaluation.summary import PRIOR_NOTE, rows_of_run
from jaxlesion.inference.predictor import data_config, predict_ensemble, predict_out_of_fold
from jaxlesion.runs.store import Run

BEST_NOTE = "checkpoint best: its epoch was chosen on rows of this very fold, so these figures are too good"


@dataclass(frozen=True)
class LabelledOptions:
    """Source of predictions with targets."""

    run: Path | None = None
    """Folder of a run: every finished fold predicts again what it held out."""
    predictions: Path | None = None
    """CSV with isic_id and prediction, and target unless --metadata gives it."""
    metadata: Path | None = None
    """With --predictions: CSV that gives target and patient_id by isic_id [default: that of --data-dir, if given]."""
    data_dir: Path | None = None
    """With --run: where its data lies now, or another labelled set, which the mean of the folds predicts."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint predicts. best was chosen on rows that it is scored on."""
    batch_size: int | None = None
    """With --run: images per step [default: the run's]. No figure depends on it."""


class Labelled(NamedTuple):
    """Predictions with targets."""

    table: pd.DataFrame
    """Predictions of one model, each lesion once."""
    lesions: pd.DataFrame | None
    """Metadata of these lesions, and perhaps of others; None if not asked for."""
    rows: dict[str, pd.DataFrame]
    """Sets of the table's rows, by name."""
    name: str
    """Of the whole table, where it has no folds."""
    notes: list[str]
    """Sentences on how the predictions were made."""
    probabilities: Probabilities | None = None
    """Of the table's rows."""


def open_labelled(options: LabelledOptions, *, metadata: bool, progress: type[Meter] = Meter) -> Labelled:
    """Read the predictions of a CSV, or predict by a run's checkpoints.

    Args:
        options: exactly one of `run` and `predictions` is given.
        metadata: whether the lesions' metadata are needed too.
        progress: makes the meters of predicting.

    Raises:
        InputError: whatever is wrong with the files.
    """
    if options.run is not None:
        return _from_run(options, Run.open(options.run), progress)
    table = read_labelled(options, options.predictions)
    lesions = _metadata(options) if metadata else None
    probabilities = Probabilities(table["prediction"].to_numpy(np.float64))
    return Labelled(table, lesions, {"all rows": table}, options.predictions.name, [], probabilities)


def read_labelled(options: LabelledOptions, path: Path) -> pd.DataFrame:
    """Read a Predictions table whose targets are all known.

    Raises:
        InputError: a lesion has no target, or whatever else is wrong with the files.
    """
    table = read_predictions(path, _metadata(options))
    if (unknown := table["target"].isna()).any():
        first = table["isic_id"][unknown].iloc[0]
        raise InputError(f"{path}: {first} has no target; give --metadata a CSV that has them")
    return table


def is_external(run: Run, dataset: Dataset) -> bool:
    """Return whether a dataset shares nothing with a run's training data.

    Raises:
        InputError: it shares a patient, but no lesion: metrics on it would be neither held out nor out of fold.
    """
    trained = run.folds_table()
    if dataset.lesions["isic_id"].isin(trained["isic_id"]).any():
        return False  # the run's own data; if not, its hashes differ
    if (shared := dataset.lesions["patient_id"].isin(trained["patient_id"])).any():
        first = dataset.lesions["patient_id"][shared].iloc[0]
        raise InputError(
            f"{dataset.metadata}: {shared.sum()} rows are of patients that {run.folder} was trained on ({first}, ...): "
            "figures on them would be too good; remove those rows"
        )
    return True


def _metadata(options: LabelledOptions) -> pd.DataFrame | None:
    labels = options.metadata or (options.data_dir and options.data_dir / "train-metadata.csv")
    return None if labels is None else read_lesions(labels, columns=(*KEYS, *subgroups.COLUMNS))


def _from_run(options: LabelledOptions, run: Run, progress: type[Meter]) -> Labelled:
    dataset = open_dataset(options.data_dir or run.config.data_dir, columns=(*KEYS, *subgroups.COLUMNS))
    digests = fingerprint(dataset)
    config = data_config(run, options.batch_size)
    notes = [PRIOR_NOTE] + ([BEST_NOTE] if options.checkpoint == "best" else [])
    if options.data_dir is not None and is_external(run, dataset):
        batches = open_batches(config, dataset.lesions, dataset, digests["images"])
        found = predict_ensemble(run, dataset.lesions, batches, options.checkpoint, progress)
        table = _as_written(found.table)
        notes.append(f"external set, no lesion of it was trained on: {table['model'].iloc[0]}")
        probabilities, said = _calibrated(run, lambda calibration: calibration.new_rows(found.each, found.models))
        table = _with_calibrated(table, probabilities)
        return Labelled(table, dataset.lesions, {"all rows": table}, "external", notes + said, probabilities)
    run.check_data(digests)
    lesions = run.lesions(dataset)
    batches = open_batches(config, lesions, dataset, digests["images"])
    table = predict_out_of_fold(run, lesions, batches, options.checkpoint, progress)
    if options.checkpoint == "last":
        notes.append(_agreement(run, table))
    table = _as_written(table)
    probabilities, said = _calibrated(run, lambda calibration: _out_of_fold(calibration, table))
    if probabilities is not None and run.calibration().cross_fitted:
        table = _with_calibrated(table, probabilities)
    return Labelled(table, lesions, rows_of_run(run.config, lesions, table), "whole", notes + said, probabilities)


def _out_of_fold(calibration: Calibration, table: pd.DataFrame) -> np.ndarray:
    calibration.check(table["model"].unique().tolist())
    return calibration.out_of_fold(table["prediction"], table["fold"])


def _calibrated(run: Run, by: Callable[[Calibration], np.ndarray]) -> tuple[Probabilities | None, list[str]]:
    """Return what a run's calibration makes of predictions, and sentences on it; None where there is no calibration."""
    try:
        calibration = run.calibration()
        return Probabilities(by(calibration), calibration.prevalence), calibration.notes()
    except InputError as e:
        return None, [f"no calibrated figures: {e}"]


def _with_calibrated(table: pd.DataFrame, probabilities: Probabilities | None) -> pd.DataFrame:
    """Return the table with its calibrated probabilities, where there are some."""
    return table if probabilities is None else table.assign(**{CALIBRATED: probabilities.values})


def _as_written(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as its CSV is read back, so that thresholds hold for the CSV."""
    return table.assign(prediction=as_written(table["prediction"]))


def _agreement(run: Run, table: pd.DataFrame) -> str:
    """Return a sentence on how far the predictions are from those that training wrote."""
    stored = concatenate([read_predictions(run.fold(k).oof) for k in run.finished_folds()])
    known = stored.set_index("isic_id")["prediction"].reindex(table["isic_id"]).to_numpy(np.float32)
    return f"largest difference to the predictions that training wrote: {np.abs(known - table['prediction']).max():.1e}"
