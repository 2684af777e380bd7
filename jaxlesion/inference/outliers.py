"""Measure how unlike a lesion looks to the others of its patient, by images alone: the ugly duckling sign.

A lesion's embedding is scaled to length 1. The distance to another is 1 - their cosine: 0 for equal directions, at
most 2. Soenksen et al. (2021, Science Translational Medicine) rank the lesions of a patient by such distances.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import SILENT, Hooks
from jaxlesion.data.leaks import refuse_telling_counts
from jaxlesion.data.predictions import concatenate, predictions_table
from jaxlesion.inference.knn import KnnOptions, embedding, open_searched
from jaxlesion.runs.selection import choose_folds

CHUNK = 2_000  # lesions of a patient whose distances are in memory at a time


class Distances(NamedTuple):
    """Of each lesion to the others of its patient; nan where there are none."""

    mean: np.ndarray  # [n]
    nearest: np.ndarray  # [n]
    rank: np.ndarray  # [n] (rank of the mean distance - 1/2) / lesions of the patient, ties halved


def distances(embeddings: np.ndarray, patients: Sequence[object]) -> Distances:
    """Compare each lesion with the others of its patient.

    Args:
        embeddings: float [n, d].
        patients: [n] names; missing ones are patients of their own.
    """
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.where(length > 0, length, 1)
    group = pd.factorize(pd.Series(patients).to_numpy())[0]
    mean, nearest, rank = (np.full(len(unit), np.nan) for _ in range(3))
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order], prepend=-2, append=-2))
    for start, end in pairwise(bounds):
        rows = order[start:end]
        if group[rows[0]] < 0 or len(rows) < 2:
            continue
        for at in range(0, len(rows), CHUNK):
            some = np.arange(at, min(at + CHUNK, len(rows)))
            apart = 1 - unit[rows[some]] @ unit[rows].T
            apart[np.arange(len(some)), some] = 0
            mean[rows[some]] = apart.sum(1) / (len(rows) - 1)
            apart[np.arange(len(some)), some] = np.inf
            nearest[rows[some]] = apart.min(1)
        rank[rows] = (rankdata(mean[rows].round(12)) - 0.5) / len(rows)
    return Distances(mean, nearest, rank)


def outliers(options: KnnOptions, hooks: Hooks = SILENT) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare each lesion of the wanted folds with the others of its patient.

    Args:
        options: of the rows and the network; `k` and `features` are not used. With a run, the network of the fold that
            held a patient out gives the embeddings of all of the patient's lesions.
        hooks: see `Hooks`.

    Returns:
        The Predictions table, whose prediction is the rank within the patient (1/2 for a patient's only lesion), and a
        table with `isic_id` and the three distances.

    Raises:
        InputError: patients are not known, or are known for rows of one label alone; or as of `knn_predictions`.
    """
    searched = open_searched(options, hooks.say)
    lesions = searched.lesions
    if not lesions["patient_id"].duplicated().any():
        raise InputError("no patient is known to have two lesions, so there is nothing to compare")
    refuse_telling_counts(lesions)
    if lesions.groupby("patient_id")["fold"].nunique().max() > 1:
        raise InputError("the folds split patients: give --folds.group patient_id, so that a patient is compared whole")
    of_fold, values = lesions["fold"].to_numpy(), embedding(searched, hooks)
    tables, found = [], []
    for fold in choose_folds(options.fold, sorted(set(of_fold.tolist()))):
        rows = lesions[of_fold == fold]
        of = distances(values(fold)[of_fold == fold], rows["patient_id"])
        tables.append(predictions_table(rows, np.nan_to_num(of.rank, nan=0.5), "ugly duckling", fold))
        columns = {f"distance_{name}": values_of for name, values_of in of._asdict().items()}
        found.append(pd.DataFrame({"isic_id": rows["isic_id"].to_numpy(), **columns}))
    return concatenate(tables), concatenate(found)
