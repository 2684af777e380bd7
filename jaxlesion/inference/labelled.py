"""Predictions whose targets are known, to evaluate: from a CSV, or made by the checkpoints of a run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.config import ALL_ROWS, Layout
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import Meter, ignore
from jaxlesion.data.batches import open_batches
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.folds import refuse_alike
from jaxlesion.data.identity import alike
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.open import open_dataset, open_metadata, open_table
from jaxlesion.data.predictions import CALIBRATED, as_written, concatenate, read_predictions
from jaxlesion.data.schema import KEYS
from jaxlesion.evaluation import subgroups
from jaxlesion.evaluation.calibration import Calibration
from jaxlesion.evaluation.clinic import Probabilities
from jaxlesion.evaluation.summary import PRIOR_NOTE, notes_on_prior, rows_of_run
from jaxlesion.inference.experts import check_views, networks, predict_held_out, predict_new
from jaxlesion.inference.overlap import Overlap
from jaxlesion.inference.predictor import data_config, finished_folds, members_of, predict_ensemble, predict_out_of_fold
from jaxlesion.runs.store import Run

VIEWS_NOTE = "probabilities of several views; the calibration was fitted on single ones"
BEST_NOTE = "checkpoint best: its epoch was chosen on rows of this very fold, so these figures are too good"


@dataclass(frozen=True)
class LabelledOptions:
    """Source of predictions with targets."""

    run: Path | None = None
    """Folder of a run: every finished fold predicts again what it held out. Or of a released model, with --data-dir."""
    predictions: Path | None = None
    """CSV with isic_id and prediction, and target unless --metadata gives it."""
    metadata: Path | None = None
    """With --predictions: table that gives target, and patient_id if it has it, by isic_id [default: that of
    --data-dir, if given]."""
    data_dir: Path | None = None
    """With --run: where its data lies now, or another labelled set, which the mean of the folds predicts (the model
    of all rows, where no fold is finished)."""
    data: Layout = field(default_factory=Layout)
    allow_missing: bool = False
    """Score the rows that have prediction, fold and target, and say how many others are left out."""
    ids_as_is: bool = False
    """Take patient ids that differ only by case, by .0 or by characters that look alike as different patients."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint predicts. best was chosen on rows that it is scored on."""
    tta: Literal[1, 8] = 1
    """With --run: views of each image, 8 for its exact mirrors and quarter turns."""
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
        run = Run.open(options.run)
        return (_from_run if run.kind == "network" else _from_experts)(options, run, progress)
    notes: list[str] = []
    table = read_labelled(options, options.predictions, notes.append)
    lesions = _metadata(options) if metadata else None
    calibrated = CALIBRATED in table and table[CALIBRATED].notna().all()
    probabilities = Probabilities(table[CALIBRATED if calibrated else "prediction"].to_numpy(np.float64))
    if calibrated:
        notes.append("calibration, decision curve and calls are of the column calibrated")
    return Labelled(table, lesions, {"all rows": table}, options.predictions.name, notes, probabilities)


def read_labelled(options: LabelledOptions, path: Path, say: Callable[[str], None] = ignore) -> pd.DataFrame:
    """Read a Predictions table whose targets are all known.

    Raises:
        InputError: a lesion has no target, two patients read alike, or whatever else is wrong with the files.
    """
    table = read_predictions(path, _metadata(options, say), allow_missing=options.allow_missing, say=say)
    if (unknown := table["target"].isna()).any():
        first = table["isic_id"][unknown].iloc[0]
        raise InputError(f"{path}: {first} has no target; give --metadata a CSV that has them")
    if not options.ids_as_is:
        refuse_alike(table["patient_id"], "patient_id", "give --ids-as-is")
    return table


def is_external(run: Run, dataset: Dataset) -> bool:
    """Return whether a dataset shares nothing with a run's training data.

    Raises:
        InputError: it shares a patient, but no lesion, or a lesion with a released model: metrics on it would be
            neither held out nor out of fold.
    """
    if run.released:
        if (shared := dataset.lesions["isic_id"].isin(run.trained_rows([ALL_ROWS])["isic_id"])).any():
            first = dataset.lesions["isic_id"][shared].iloc[0]
            raise InputError(
                f"{dataset.metadata}: {run.folder}, a released model without folds, was trained on {shared.sum()} of "
                f"its rows ({first}, ...): figures on them would be too good; remove those rows"
            )
        return True
    trained = run.folds_table()
    if dataset.lesions["isic_id"].isin(trained["isic_id"]).any():
        return False  # the run's own data; if not, its hashes differ
    if "patient_id" not in dataset.lesions:
        return True
    ours = trained["patient_id"].dropna().unique()
    if (pair := alike(dataset.lesions["patient_id"].dropna().unique(), ours)) is not None:
        raise InputError(
            f"{dataset.metadata}: patient {pair[1]!r} reads like {pair[0]!r}, whom {run.folder} was trained on: remove "
            "the patient's rows, or rename who is another"
        )
    if (shared := dataset.lesions["patient_id"].isin(trained["patient_id"])).any():
        first = dataset.lesions["patient_id"][shared].iloc[0]
        raise InputError(
            f"{dataset.metadata}: {shared.sum()} rows are of patients that {run.folder} was trained on ({first}, ...): "
            "figures on them would be too good; remove those rows"
        )
    return True


def _metadata(options: LabelledOptions, say: Callable[[str], None] = ignore) -> pd.DataFrame | None:
    columns = (*KEYS, *subgroups.COLUMNS)
    if options.metadata is not None:
        return read_lesions(options.metadata, columns=columns, layout=options.data, say=say)
    if options.data_dir is None and options.data.table is None:
        return None
    return open_table(options.data_dir or options.data.table.parent, layout=options.data, columns=columns, say=say)


def _from_experts(options: LabelledOptions, run: Run, progress: type[Meter]) -> Labelled:
    """Predict again by trees or a stack: what their folds held out, or another labelled set."""
    notes: list[str] = []
    check_views(run, tta=options.tta > 1, checkpoint=options.checkpoint == "best")
    folds = finished_folds(run)
    layout = run.layout(options.data.table) if options.data_dir is None else options.data
    with_images = options.data_dir is not None and any(networks(run))
    read = open_dataset if with_images else open_metadata
    dataset = read(options.data_dir or run.config.data_dir, layout=layout, say=notes.append)
    notes += notes_on_prior(run.config)
    if options.data_dir is not None and is_external(run, dataset):

        def by_network(network: Run) -> np.ndarray:
            batches = open_batches(data_config(network, options.batch_size), dataset.lesions, dataset, images)
            return predict_ensemble(
                network, dataset.lesions, batches, options.checkpoint, progress, options.tta
            ).each.mean(1)

        images = fingerprint(dataset)["images"] if with_images else ""
        found = predict_new(run, dataset, by_network)
        table = _as_written(found.table)
        notes.append(f"external set, none of its ids was trained on: {table['model'].iloc[0]}")
        notes += Overlap(run, folds, dataset.lesions["isic_id"].tolist()).ids_note()
        probabilities, said = _calibrated(run, lambda calibration: calibration.new_rows(found.each, found.models))
        table = _with_calibrated(table, probabilities)
        return Labelled(table, dataset.lesions, {"all rows": table}, "external", notes + said, probabilities)
    run.check_data({"metadata": fingerprint(dataset)["metadata"]})
    lesions = run.lesions(dataset)
    table = predict_held_out(run, lesions, dataset)
    notes.append(_agreement(run, table))
    return _out_of_fold_figures(run, lesions, table, notes)


def _from_run(options: LabelledOptions, run: Run, progress: type[Meter]) -> Labelled:
    notes: list[str] = []
    if options.data_dir is None:
        finished_folds(run)  # before the data is read
    if run.released:
        notes.append("a released model does not say whom it was trained on: make sure that none of these patients is")
    layout = run.layout(options.data.table) if options.data_dir is None else options.data
    if options.tta > 1:
        notes.append(VIEWS_NOTE)
    dataset = open_dataset(
        options.data_dir or run.config.data_dir, layout=layout, columns=(*KEYS, *subgroups.COLUMNS), say=notes.append
    )
    digests = fingerprint(dataset)
    config = data_config(run, options.batch_size)
    notes += [PRIOR_NOTE] + ([BEST_NOTE] if options.checkpoint == "best" else [])
    if options.data_dir is not None and is_external(run, dataset):
        batches = open_batches(config, dataset.lesions, dataset, digests["images"])
        overlap = Overlap(run, members_of(run), dataset.lesions["isic_id"].tolist())
        batches.watch = overlap.watch
        found = predict_ensemble(run, dataset.lesions, batches, options.checkpoint, progress, options.tta)
        table = _as_written(found.table)
        notes.append(f"external set, none of its ids was trained on: {table['model'].iloc[0]}")
        notes += overlap.ids_note() + overlap.pixels_note()
        probabilities, said = _calibrated(run, lambda calibration: calibration.new_rows(found.each, found.models))
        table = _with_calibrated(table, probabilities)
        return Labelled(table, dataset.lesions, {"all rows": table}, "external", notes + said, probabilities)
    run.check_data(digests)
    lesions = run.lesions(dataset)
    batches = open_batches(config, lesions, dataset, digests["images"])
    table = predict_out_of_fold(run, lesions, batches, options.checkpoint, progress, options.tta)
    if options.checkpoint == "last" and options.tta == 1:
        notes.append(_agreement(run, table))
    return _out_of_fold_figures(run, lesions, table, notes)


def _out_of_fold_figures(run: Run, lesions: pd.DataFrame, table: pd.DataFrame, notes: list[str]) -> Labelled:
    """Return a run's out-of-fold predictions with their rows and calibrated probabilities."""
    table = _as_written(table)
    probabilities, said = _calibrated(run, lambda calibration: _out_of_fold(calibration, table))
    if probabilities is not None and run.calibration().cross_fitted:
        table = _with_calibrated(table, probabilities)
    return Labelled(table, lesions, rows_of_run(run.config, lesions, table), "whole", notes + said, probabilities)


def _out_of_fold(calibration: Calibration, table: pd.DataFrame) -> np.ndarray:
    calibration.check([name.partition(" x ")[0] for name in table["model"].unique()])
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
    if stored["isic_id"].duplicated().any() or set(stored["isic_id"]) != set(table["isic_id"]):
        raise InputError(
            f"{run.folder}: the oof.csv of its folds do not hold each held-out row once: put back what training wrote"
        )
    known = stored.set_index("isic_id")["prediction"].loc[table["isic_id"]].to_numpy(table["prediction"].dtype)
    return f"largest difference to the predictions that training wrote: {np.abs(known - table['prediction']).max():.1e}"
