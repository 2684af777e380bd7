"""Predict by the trees of a run: what each fold held out, and lesions that none has seen."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from jaxlesion.boosting.features import Features, compare_within, features, number_columns
from jaxlesion.boosting.train import held_out_logits, read_fold
from jaxlesion.boosting.trees import log_odds
from jaxlesion.data.predictions import concatenate, predictions_table
from jaxlesion.runs.store import Run, model_name


def folds_features(
    run: Run, lesions: pd.DataFrame, folds: Sequence[int], scores: np.ndarray | None, path: object
) -> Iterator[tuple[int, Features, list]]:
    """Yield each fold with the features of some lesions and the bag; one fold's are in memory at a time.

    Args:
        run: of trees.
        lesions: n rows, with all columns.
        folds: finished ones.
        scores: [n, runs] logits of the run's runs on images; None where it has none.
        path: of the table, for messages.

    Raises:
        InputError: a column is missing or wrong, or a file of the run is.
    """
    read = {fold: read_fold(run, fold) for fold in folds}
    columns = number_columns(schema for schema, _ in read.values())
    for schema, _ in read.values():
        schema.check(lesions, path)
    compared = compare_within(lesions, columns, run.config.features, scores)
    for fold, (schema, members) in read.items():
        inputs = features(lesions, compared, schema)
        yield fold, inputs, members(inputs)


def out_of_fold(run: Run, lesions: pd.DataFrame, folds: Sequence[int], path: object) -> pd.DataFrame:
    """Predict each fold's held-out rows by that fold; return the Predictions table.

    Args:
        run: of trees.
        lesions: of the run, with folds.
        folds: finished ones.
        path: of the table, for messages.
    """
    tables = []
    for fold, inputs, members in folds_features(run, lesions, folds, held_out_logits(run, lesions), path):
        rows = np.flatnonzero(lesions["fold"].to_numpy() == fold)
        prediction = expit(log_odds(members, inputs.values[rows]))
        tables.append(predictions_table(lesions.iloc[rows], prediction, names(run, [fold])[0], fold))
    return concatenate(tables)


def new_rows(
    run: Run, lesions: pd.DataFrame, folds: Sequence[int], scores: np.ndarray | None, path: object
) -> np.ndarray:
    """Return each fold's probability [n, folds] of lesions that none has seen; arguments as for `folds_features`."""
    found = folds_features(run, lesions, folds, scores, path)
    return np.stack([expit(log_odds(members, inputs.values)) for _, inputs, members in found], 1)


def names(run: Run, folds: Sequence[int]) -> list[str]:
    """Return the folds' names in Predictions tables."""
    return [model_name(fold, run.config.trees.trees) for fold in folds]
