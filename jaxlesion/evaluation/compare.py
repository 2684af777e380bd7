"""Differences between the metrics of two Predictions tables of the same lesions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.bootstrap import difference
from jaxlesion.evaluation.summary import (
    EvalOptions,
    patients_of,
    plain_values,
    resampled_values,
    shared_keys,
    with_thresholds,
)

P_NOTE = "p: two-sided, twice the smaller share of draws that do not lie on one side of 0"


class Comparison(NamedTuple):
    """A metric of two tables, their difference a - b with its 95 % interval, and the two-sided p."""

    a: float
    b: float
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def compare(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str], options: EvalOptions) -> dict[str, Comparison]:
    """Compare every metric that has an interval between two Predictions tables of the same lesions.

    Both are resampled together: each resample takes the same patients from both.

    Args:
        a: Predictions, targets known.
        b: the same.
        names: of both, for messages.
        options: of the evaluation.

    Raises:
        InputError: a lesion twice, or the first lesion that only one table has or that they do not agree on.
    """
    a, b = _aligned(a, b, names)
    scored = [with_thresholds(table, options, name) for table, name in zip((a, b), names, strict=True)]
    values = [plain_values(table, options) for table in scored]
    samples: Sequence[dict[str, np.ndarray]] = ({}, {})
    if options.resamples:
        patient = patients_of(a.assign(patient_id=a["patient_id"].fillna(b["patient_id"])))
        samples = resampled_values(scored, patient, options, 0, options.ticker(options.resamples)).samples
    compared = {}
    for key in shared_keys(values):
        first, second = (of[key] for of in values)
        limits = difference(*(of[key] for of in samples)) if all(key in of for of in samples) else None
        compared[key] = Comparison(first, second, first - second, *(limits or ()))
    return compared


def _aligned(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sort both tables by isic_id; `InputError` for the first lesion that they do not share or agree on."""
    for one, other, (own, others) in ((a, b, names), (b, a, names[::-1])):
        if (alone := ~one["isic_id"].isin(other["isic_id"])).any():
            first = one["isic_id"][alone].min()
            raise InputError(f"{first} is in {own} and not in {others}: two tables compare on the same rows only")
    a, b = (table.sort_values("isic_id", ignore_index=True) for table in (a, b))
    if len(a) == len(b):  # otherwise a lesion is there twice, which is found next
        for column in ("target", "patient_id"):
            if (differ := (a[column] != b[column]).fillna(False)).any():
                row = int(np.argmax(differ.to_numpy(bool)))
                both = " and ".join(f"{t[column][row]} in {name}" for t, name in zip((a, b), names, strict=True))
                raise InputError(f"{column} of {a['isic_id'][row]} is {both}: two tables must agree on it")
    return a, b
