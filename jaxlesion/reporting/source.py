"""Source of a report: a run, its data, its out-of-fold predictions and their metrics."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluation.clinic import without_uncorrected
from jaxlesion.evaluation.summary import POOLED, EvalOptions, Summary, folds_of, summarise_run
from jaxlesion.evaluation.thresholds import on_other_folds
from jaxlesion.inference.predictor import finished_folds
from jaxlesion.runs.store import Run


@dataclass(frozen=True)
class Source:
    """The run and data of a report, with out-of-fold predictions and their metrics."""

    run: Run
    dataset: Dataset
    lesions: pd.DataFrame
    """Of the run, with folds."""
    table: pd.DataFrame
    """Out-of-fold predictions [n] of the finished folds' rows."""
    summary: Summary
    chosen: np.ndarray
    """Threshold [n] of each row of the table, chosen on the other folds; nan where it cannot be."""

    @property
    def folds(self) -> list[int]:
        """The finished folds, ascending."""
        return folds_of(self.table)

    @property
    def overall(self) -> str:
        """The part that all rows of the table are in."""
        return POOLED if len(self.folds) > 1 else f"fold {self.folds[0]}"

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Target [n] and prediction [n]."""
        return self.table["target"].to_numpy(np.int8), self.table["prediction"].to_numpy(np.float64)

    @property
    def threshold(self) -> np.ndarray:
        """The chosen threshold of each row [n], or 0.5."""
        return np.where(np.isnan(self.chosen), 0.5, self.chosen)

    @property
    def has_chosen(self) -> bool:
        """Return whether every row has a chosen threshold."""
        return not np.isnan(self.chosen).any()


def read_source(folder: Path, data_dir: Path | None, table: Path | None, options: EvalOptions) -> Source:
    """Open a run with its data, and compute the metrics of its out-of-fold predictions.

    Args:
        folder: of the run.
        data_dir: where its data lies now; None for where it lay in training.
        table: likewise of a table that was named.
        options: of the evaluation.

    Raises:
        InputError: no run, no finished fold, or other data than it was trained on.
    """
    run = Run.open(folder)
    finished_folds(run)
    dataset, lesions = run.open_data(data_dir, table)
    return Source(run, dataset, lesions, *figures_of(run, lesions, options))


def figures_of(run: Run, lesions: pd.DataFrame, options: EvalOptions) -> tuple[pd.DataFrame, Summary, np.ndarray]:
    """Return a run's out-of-fold predictions [n], their metrics, and the threshold [n] chosen on the other folds.

    Raises:
        InputError: see `held_out`.
    """
    held = held_out(run, lesions)
    columns = (held[name].to_numpy(np.float64) for name in ("target", "prediction", "fold"))
    summary = without_uncorrected(summarise_run(run.config, lesions, held, options), run.config)
    return held, summary, on_other_folds(*columns)


def held_out(run: Run, lesions: pd.DataFrame) -> pd.DataFrame:
    """Read the run's oof.csv.

    Raises:
        InputError: it is not the rows that folds.csv has for its folds, each once, with their targets.
    """
    path = run.folder / "oof.csv"
    table = read_predictions(path)
    keys = ["isic_id", "target", "fold"]
    there, wanted = table[keys], lesions.loc[lesions["fold"].isin(table["fold"]), keys]
    if there["fold"].isna().any() or sorted(there.itertuples(index=False)) != sorted(wanted.itertuples(index=False)):
        raise InputError(f"{path}: does not hold the very rows of folds.csv: rebuild it by train --resume")
    return table
