"""Metadata columns as features: scaled, filled in and one-hot, as the training rows say."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.schema import feature_columns
from jaxlesion.data.tables import numbers

MAX_CATEGORIES = 100  # a text column of more is a name or a number of something; the competition's have 21 at most


@dataclass(frozen=True)
class MetadataFeatures:
    """Features of every row of a table."""

    values: np.ndarray  # float32 [n, features]
    names: list[str]  # [features]: a numeric column, or column=category
    left_out: dict[str, str]  # why a column that might have been used is not


def metadata_features(lesions: pd.DataFrame, training: np.ndarray) -> MetadataFeatures:
    """Features of all rows; kinds, medians, means, deviations and categories come from the training rows alone.

    A column is numeric where each of its training cells is a number or empty. Missing or infinite numbers become
    the median, and all are scaled to mean 0 and standard deviation 1. Other columns become one feature per
    category, 1 or 0; a cell that is empty, or a category that no training row has, is 0 in all. Never used:
    keys, and what is known only after a biopsy (`lesions.feature_columns`).

    Args:
        lesions: n rows.
        training: [n] bool.

    Raises:
        InputError: no column can be used, or a number is too large to be scaled.
    """
    parts, names, left_out = [], [], {}
    for column in feature_columns(lesions):
        cells = lesions[column]
        known = cells[training].dropna()
        if numbers(known).notna().all():
            values, labels = _scaled(lesions, column, training), [column]
        else:
            categories = sorted(known.astype(str).unique())
            if len(categories) > MAX_CATEGORIES:
                left_out[column] = f"{len(categories):,} categories"
                continue
            values, labels = _one_hot(cells, categories), [f"{column}={c}" for c in categories]
        if (values[training] == values[training][0]).all():
            left_out[column] = "the same in every training row" if len(known) else "empty in every training row"
            continue
        parts.append(values)
        names += labels
    if not parts:
        why = ": " + ", ".join(f"{column} is {reason}" for column, reason in left_out.items()) if left_out else ""
        raise InputError(
            f"the metadata has no column to search by beyond ids, targets and diagnoses{why}; use other --features"
        )
    return MetadataFeatures(np.concatenate(parts, axis=1), names, left_out)


def _scaled(lesions: pd.DataFrame, column: str, training: np.ndarray) -> np.ndarray:
    """A numeric column, float32 [n, 1]; all 0 where the training rows have one value or none."""
    number = numbers(lesions[column]).to_numpy()
    finite = np.isfinite(number)
    if not finite[training].any():
        return np.zeros((len(number), 1), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        number = np.where(finite, number, np.median(number[finite & training]))
        if np.ptp(number[training]) == 0:
            return np.zeros((len(number), 1), np.float32)
        scaled = ((number - number[training].mean()) / number[training].std()).astype(np.float32)
    if not np.isfinite(scaled).all():
        row = int(np.abs(number).argmax())
        which = lesions["isic_id"].iloc[row]
        raise InputError(
            f"{column} of {which} is {number[row]:g}, too large to be scaled; correct it or leave it empty"
        )
    return scaled[:, None]


def _one_hot(cells: pd.Series, categories: list[str]) -> np.ndarray:
    """float32 [n, categories]; rows of no such category are 0."""
    code = pd.Index(categories).get_indexer(cells.astype("string").fillna("").astype(str))  # -1: none of them
    return np.eye(len(categories) + 1, len(categories), dtype=np.float32)[code]
