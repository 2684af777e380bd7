"""Metadata columns as features: scaled, filled in and one-hot, fitted on the training rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.schema import feature_columns
from jaxlesion.data.tables import numbers, shown

MAX_CATEGORIES = 100  # a text column of more is a name or a number of something; the competition's have 21 at most


@dataclass(frozen=True)
class MetadataFeatures:
    """Holds the features of every row of a table."""

    values: np.ndarray  # float32 [n, features]
    names: list[str]  # [features]: a numeric column, or column=category
    left_out: dict[str, str]  # why a column that might have been used is not
    as_text: dict[str, str]  # columns of numbers that are taken as categories, and which cells make them so


def metadata_features(lesions: pd.DataFrame, training: np.ndarray) -> MetadataFeatures:
    """Compute features of all rows; kinds, medians, means, deviations and categories come from the training rows alone.

    A column is numeric where each of its training cells is a number or empty. Missing or infinite numbers become
    the median, and all are scaled to mean 0 and standard deviation 1. Other columns become one feature per
    category, 1 or 0; a cell that is empty, or a category that no training row has, is 0 in all. Numeric columns come
    first. Never used: keys, and columns known only after a biopsy (`schema.feature_columns`).

    Args:
        lesions: n rows.
        training: [n] bool.

    Raises:
        InputError: no column can be used, or a number is too large to be scaled.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table, categories, left_out = usable_columns(lesions, training)
    if not len(table.columns):
        why = ": " + ", ".join(f"{column} is {reason}" for column, reason in left_out.items()) if left_out else ""
        raise InputError(
            f"the metadata has no column to search by beyond ids, targets and diagnoses{why}; use other --features"
        )
    numeric = [column for column in table if column not in categories]
    one_hot = OneHotEncoder(
        categories=list(categories.values()), handle_unknown="ignore", sparse_output=False, dtype=np.float32,
        feature_name_combiner=lambda column, category: f"{column}={category}",
    )  # fmt: skip
    features = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numeric),
            ("texts", one_hot, list(categories)),
        ],
        verbose_feature_names_out=False,
    )
    with np.errstate(over="ignore", invalid="ignore"):
        values = features.fit(table[training]).transform(table).astype(np.float32)
    for i, column in enumerate(numeric):
        variance = features.named_transformers_["numbers"][-1].var_[i]  # infinite: all values become 0
        if not (np.isfinite(variance) and np.isfinite(values[:, i]).all()):
            row = int(table[column].abs().to_numpy().argmax())
            raise InputError(
                f"{column} of {lesions['isic_id'].iloc[row]} is {table[column].iloc[row]:g}, too large to be scaled; "
                "correct it or leave it empty"
            )
    as_text = almost_numbers(table[training], categories)
    return MetadataFeatures(values, features.get_feature_names_out().tolist(), left_out, as_text)


def almost_numbers(table: pd.DataFrame, texts: Iterable[str]) -> dict[str, str]:
    """Say, for each column of texts that nearly is one of numbers, which cells keep it from that."""
    return {column: why for column in texts if (why := _almost_numbers(table[column]))}


def _almost_numbers(cells: pd.Series) -> str:
    """Say which cells keep a column of numbers from being one; empty for a column that is none."""
    known = cells[cells != ""]
    other = known[numbers(known).isna()]
    if not 0 < len(other) < len(known) / 2:
        return ""
    named = ", ".join(shown(cell) for cell in other.unique()[:3])
    return f"{len(other):,} of {len(known):,} known cells are no numbers: {named}"


def usable_columns(
    lesions: pd.DataFrame, training: np.ndarray
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, str]]:
    """Return the columns to use as float64 or text, the sorted categories of texts, and why others are not used.

    Args:
        lesions: n rows.
        training: [n] bool; kinds and categories come from these rows alone.
    """
    columns, categories, left_out = {}, {}, {}
    for column in feature_columns(lesions):
        known = lesions[column][training].dropna()
        if numbers(known).notna().all():
            columns[column] = numbers(lesions[column]).replace([np.inf, -np.inf], np.nan)
        else:
            columns[column] = lesions[column].astype("string").fillna("").astype(object)
            categories[column] = np.sort(known.astype(str).unique().astype(object))
        if len(categories.get(column, ())) > MAX_CATEGORIES:
            left_out[column] = f"{len(categories[column]):,} categories"
        elif columns[column][training].nunique() < 2:
            left_out[column] = "the same in every training row" if len(known) else "empty in every training row"
        if column in left_out:
            del columns[column]
            categories.pop(column, None)
    return pd.DataFrame(columns), categories, left_out
