"""python -m jaxlesion.evaluate: figures from the checkpoints of a run, or from a table of predictions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from jaxlesion.cli import arguments, parse
from jaxlesion.console import print_figures, run_program
from jaxlesion.data.folds import validation_rows
from jaxlesion.data.layout import Dataset, fingerprint, open_dataset
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.loader import open_batches
from jaxlesion.data.predictions import concatenate, read_predictions, write_predictions
from jaxlesion.errors import InputError
from jaxlesion.files import write_atomic
from jaxlesion.inference import data_config, lesions_of, predict_ensemble, predict_out_of_fold
from jaxlesion.metrics import summary
from jaxlesion.runs import Run, without_nan

Figures = dict[str, dict[str, dict[str, float]]]  # of which folds, on which rows, name of the figure

BEST_NOTE = "checkpoint best: its epoch was chosen on rows of this very fold, so these figures are too good"
PRIOR_NOTE = "probabilities carry the prior of the sampled training rows, uncorrected"


@dataclass(frozen=True)
class EvaluateConfig:
    """Figures of a run, predicted anew from its checkpoints, or of a table of predictions."""

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
    threshold: float = 0.5
    """Predictions of at least this are malignant."""
    out: Path | None = None
    """Write the predictions there, as CSV."""
    json: Path | None = None
    """Write the figures there, as JSON."""


def evaluate(config: EvaluateConfig) -> Figures:
    """Print the figures and return them; write them and the predictions where asked to.

    Raises:
        InputError: neither or both of a run and a table; or whatever is wrong with them.
    """
    if (config.run is None) == (config.predictions is None):
        raise InputError("give one of --run, a run's folder, and --predictions, a CSV")
    table, figures, notes = _of_table(config) if config.run is None else _of_run(config, Run.open(config.run))
    notes = [f"thresholded at {config.threshold:g}", *notes]
    for name, columns in figures.items():
        print_figures(name, columns, notes)
    if config.out is not None:
        write_predictions(config.out, table)
    if config.json is not None:
        write_atomic(config.json, json.dumps({"notes": notes, "figures": without_nan(figures)}, indent=2) + "\n")
    return figures


def _of_table(config: EvaluateConfig) -> tuple[pd.DataFrame, Figures, list[str]]:
    labels = config.metadata or (config.data_dir and config.data_dir / "train-metadata.csv")
    metadata = None if labels is None else read_lesions(labels)
    table = read_predictions(config.predictions, metadata)
    if (unknown := table["target"].isna()).any():
        first = table["isic_id"][unknown].iloc[0]
        raise InputError(f"{config.predictions}: {first} has no target; give --metadata a CSV that has them")
    return table, {config.predictions.name: {"all rows": figures_of(table, config.threshold)}}, []


def _of_run(config: EvaluateConfig, run: Run) -> tuple[pd.DataFrame, Figures, list[str]]:
    dataset = open_dataset(config.data_dir or run.config.data_dir)
    digests = fingerprint(dataset)
    how = data_config(run, config.batch_size)
    notes = [PRIOR_NOTE] + ([BEST_NOTE] if config.checkpoint == "best" else [])
    if config.data_dir is not None and is_external(run, dataset):
        batches = open_batches(how, dataset.lesions, dataset, digests["images"])
        table = predict_ensemble(run, dataset.lesions, batches, config.checkpoint)
        notes.append(f"external set, no lesion of it was trained on: {table['model'].iloc[0]}")
        return table, {"external": {"all rows": figures_of(table, config.threshold)}}, notes
    run.check_data(digests)
    lesions = lesions_of(run, dataset)
    batches = open_batches(how, lesions, dataset, digests["images"])
    table = predict_out_of_fold(run, lesions, batches, config.checkpoint)
    if config.checkpoint == "last":
        notes.append(_agreement(run, table))
    return table, figures_of_run(run, lesions, table, config.threshold), notes


def is_external(run: Run, dataset: Dataset) -> bool:
    """Whether a dataset shares nothing with what a run was trained on.

    Raises:
        InputError: it shares a patient, but no lesion: figures on it would be neither held out nor out of fold.
    """
    trained = run.folds_table()
    if dataset.lesions["isic_id"].isin(trained["isic_id"]).any():
        return False  # the run's own data; where it is not, the hashes will say so
    if (shared := dataset.lesions["patient_id"].isin(trained["patient_id"])).any():
        first = dataset.lesions["patient_id"][shared].iloc[0]
        raise InputError(
            f"{dataset.metadata}: {shared.sum()} rows are of patients that {run.folder} was trained on ({first}, ...): "
            "figures on them would be too good; remove those rows"
        )
    return True


def figures_of_run(run: Run, lesions: pd.DataFrame, table: pd.DataFrame, threshold: float = 0.5) -> Figures:
    """Figures by fold, and `pooled` over the rows of several, each on the `normalised` rows and the `whole fold`.

    Args:
        run: gives the sampling of the normalised rows.
        lesions: of the run, with folds.
        table: out-of-fold predictions of one fold or more.
        threshold: predictions of at least this are malignant.
    """
    folds = sorted(int(k) for k in table["fold"].unique())
    rows = [validation_rows(lesions, k, run.config.sampling, run.config.data.seed) for k in folds]
    sampled = table["isic_id"].isin(lesions["isic_id"].iloc[np.concatenate(rows)])
    parts = {f"fold {k}": table["fold"] == k for k in folds}
    if len(folds) > 1:
        parts["pooled"] = pd.Series(True, table.index)
    return {
        name: {
            "normalised": figures_of(table[here & sampled], threshold),
            "whole fold": figures_of(table[here], threshold),
        }
        for name, here in parts.items()
    }


def figures_of(table: pd.DataFrame, threshold: float) -> dict[str, float]:
    """Every figure of a Predictions table."""
    return summary(table["target"].to_numpy(np.int8), table["prediction"].to_numpy(), threshold)


def _agreement(run: Run, table: pd.DataFrame) -> str:
    """How far the predictions are from those that training wrote."""
    stored = concatenate([read_predictions(run.fold(k).oof) for k in run.finished_folds()])
    known = stored.set_index("isic_id")["prediction"].reindex(table["isic_id"]).to_numpy(np.float32)
    return f"largest difference to the predictions that training wrote: {np.abs(known - table['prediction']).max():.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m jaxlesion.evaluate`."""
    run_program(lambda: evaluate(parse(EvaluateConfig, arguments(argv), "evaluate")))


if __name__ == "__main__":
    main()
