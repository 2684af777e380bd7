"""From the metadata of lesions to the features of trees: numbers, categories, and comparisons within the patient."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxlesion.boosting.measures import MEASURES, TOPICS, derived, topic
from jaxlesion.boosting.patient import groups, relative
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import FeaturesConfig
from jaxlesion.data.metadata import usable_columns
from jaxlesion.data.tables import numbers, shown

OF_THE_PERSON = {"age_approx"}  # the same for all lesions of a patient, or nearly: nothing to compare
IMAGE = "image logit"  # of a run on images; several are numbered


@dataclass(frozen=True)
class Schema:
    """Columns that features are made of, by the training rows of one fold; `fold_k/features.json`."""

    numbers: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    scores: int = 0  # runs on images
    compared: bool = True  # whether some patient of the table has several rows
    without: tuple[str, ...] = ()  # columns, measures and topics that are left out

    @classmethod
    def of(cls, lesions: pd.DataFrame, training: np.ndarray, config: FeaturesConfig) -> "Schema":
        """Return the schema of a table, by its training rows [n] (bool) alone.

        Raises:
            InputError: no column can be used.
        """
        wanted = lesions[[column for column in lesions if not _is_left_out(column, config.without)]]
        table, categories, left_out = usable_columns(wanted, training)
        if not len(table.columns) and not config.runs:
            why = ", ".join(f"{column} is {reason}" for column, reason in left_out.items())
            raise InputError(
                "the table has no column to learn from beyond ids, targets and diagnoses" + (why and f": {why}")
            )
        texts = {column: tuple(map(str, found)) for column, found in categories.items()}
        several = "patient_id" in lesions and bool(lesions["patient_id"].duplicated().any())
        compared = several and bool(config.relative)
        of_numbers = tuple(column for column in table if column not in texts)
        return cls(of_numbers, texts, len(config.runs), compared, config.without)

    def check(self, lesions: pd.DataFrame, path: object) -> None:
        """Raise InputError for a table that lacks a column, or has text among numbers."""
        if self.compared and "patient_id" not in lesions:
            raise InputError(f"{path}: lacks patient_id, and the run compares the lesions of a patient; add the column")
        if missing := [column for column in (*self.numbers, *self.categories) if column not in lesions]:
            raise InputError(
                f"{path}: lacks {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}, which the run was "
                "trained with; add the columns, empty where nothing is known"
            )
        for column in self.numbers:
            cells = lesions[column]
            if (bad := (numbers(cells).isna() & cells.notna()).to_numpy(bool)).any():
                row = int(bad.argmax())
                raise InputError(
                    f"{path}: {column} of {lesions['isic_id'].iloc[row]} is {shown(cells.iloc[row])}, and the run was "
                    "trained with numbers there; correct the cell or leave it empty"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `fold_k/features.json`."""
        return dataclasses.asdict(self)


def _is_left_out(name: str, without: tuple[str, ...]) -> bool:
    return name in without or topic(name) in without


def check_left_out(lesions: pd.DataFrame, without: tuple[str, ...]) -> None:
    """Raise InputError for a name that is no column, measure or topic."""
    known = {*lesions, *TOPICS, *(measure.name for measure in MEASURES)}
    if unknown := [name for name in without if name not in known]:
        raise InputError(
            f"--features.without {unknown[0]}: is no column of the table, no measure and no topic; topics are "
            f"{', '.join(TOPICS)}"
        )


def schema_from_json(content: Any, path: object) -> Schema:
    """Read what `Schema.to_json` gave; InputError where it is something else."""
    try:
        categories = {str(column): tuple(map(str, found)) for column, found in content["categories"].items()}
        of_numbers = tuple(map(str, content["numbers"]))
        return Schema(
            of_numbers, categories, int(content["scores"]), bool(content["compared"]), tuple(content["without"])
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{path}: holds no columns of features; put back what training wrote") from None


@dataclass(frozen=True)
class Compared:
    """A table's numbers, and their comparisons within the patient: the same for all folds, so computed once."""

    numbers: pd.DataFrame  # float64 [n, d]: columns, scores, then measures
    comparisons: pd.DataFrame  # float32 [n, e], columns [WITHIN ]KIND:COLUMN


def compare_within(
    lesions: pd.DataFrame, columns: tuple[str, ...], config: FeaturesConfig, scores: np.ndarray | None
) -> Compared:
    """Compute the numbers of a table, and compare each with the others of its patient.

    Args:
        lesions: n rows.
        columns: of numbers.
        config: what to make of them.
        scores: [n, runs] logits of runs on images.
    """
    cells = {column: numbers(lesions[column]).replace([np.inf, -np.inf], np.nan) for column in columns}
    own = pd.DataFrame(cells, index=lesions.index)
    for run in range(0 if scores is None else scores.shape[1]):
        own[IMAGE if scores.shape[1] == 1 else f"{IMAGE} {run + 1}"] = scores[:, run].astype(np.float64)
    if config.derived:
        own = pd.concat([own, derived(own)], axis=1)
    parts = []
    for within in dict.fromkeys(config.within) if config.relative else ():
        found = relative(own[[c for c in own if c not in OF_THE_PERSON]], groups(lesions, within), config.relative)
        parts.append(found if within == "patient" else found.add_prefix(f"{within} "))
    return Compared(own, pd.concat(parts, axis=1) if parts else pd.DataFrame(index=lesions.index))


def number_columns(schemas: Iterable[Schema]) -> tuple[str, ...]:
    """Return every column that is one of numbers in some fold."""
    return tuple(dict.fromkeys(column for schema in schemas for column in schema.numbers))


@dataclass(frozen=True)
class Features:
    """Features of trees."""

    values: np.ndarray  # float32 [n, features], NaN where nothing is known
    names: list[str]
    categories: list[int]  # which features are numbers of categories


def features(lesions: pd.DataFrame, compared: Compared, schema: Schema) -> Features:
    """Put the features of a fold together: numbers, measures, comparisons, then categories by their numbers.

    A category that no training row has is unknown.
    """
    wanted = set(schema.numbers)
    needs = {measure.name: set(measure.needs) for measure in MEASURES}

    def usable(name: str) -> bool:
        own = name in wanted or name.startswith(IMAGE) or needs.get(name, {None}) <= wanted
        return own and not _is_left_out(name, schema.without)

    own = [column for column in compared.numbers if usable(column)]
    there = compared.comparisons if schema.compared else ()
    other = [name for name in there if ":" not in name or usable(name.split(":", 1)[1])]  # without: the count
    codes = [_codes(lesions[column], found) for column, found in schema.categories.items()]
    parts = [compared.numbers[own].to_numpy(np.float32), compared.comparisons[other].to_numpy(np.float32), *codes]
    names = [*own, *other, *schema.categories]
    first = len(own) + len(other)
    return Features(np.hstack(parts), names, list(range(first, len(names))))


def _codes(cells: pd.Series, categories: tuple[str, ...]) -> np.ndarray:
    codes = pd.Index(categories, dtype=object).get_indexer(cells.astype("string").astype(object))
    return np.where(codes < 0, np.nan, codes).astype(np.float32)[:, None]
