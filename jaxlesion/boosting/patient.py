"""A lesion compared with the others of its patient: what makes it an ugly duckling (Grob and Bonerandi 1998).

Each value is computed from the rows of one patient alone, so that nothing passes from one patient to another.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from jaxlesion.core.experts import Relative, Within

PLACES: dict[Within, str | None] = {"patient": None, "site": "anatom_site_general", "tile": "tbp_tile_type"}


def relative(numbers: pd.DataFrame, group: np.ndarray, kinds: Sequence[Relative]) -> pd.DataFrame:
    """Compare each value with the others of its group.

    Args:
        numbers: [n, d] float64, with gaps.
        group: [n] number of each row's group, from 0; -1 for rows of an unknown one.
        kinds: of z `(x - mean) / deviation` (with n - 1), median `the group's`, difference `x - median`, rank
            `(rank - 1/2) / n` with ties halved, ratio `x / the largest`, and count `n` alone.

    Returns:
        float32 [n, d * kinds (count: 1)], columns KIND:COLUMN. NaN where the group is unknown, or, but for median and
        count, has fewer than two known values or no spread.
    """
    known, parts = group >= 0, []
    columns = numbers[known].groupby(group[known], sort=False)
    several = columns.transform("count").to_numpy() > 1
    for kind in dict.fromkeys(kinds):
        if kind == "count":
            values = pd.DataFrame({"count": np.bincount(group[known], minlength=1)[group[known]]})
        else:
            values = _compare(kind, numbers[known], columns, several).add_prefix(f"{kind}:")
        full = np.full((len(numbers), values.shape[1]), np.nan, np.float32)
        full[known] = values.to_numpy(np.float32)
        parts.append(pd.DataFrame(full, numbers.index, values.columns))
    return pd.concat(parts, axis=1) if parts else pd.DataFrame(index=numbers.index)


def _compare(kind: Relative, own: pd.DataFrame, columns: DataFrameGroupBy, several: np.ndarray) -> pd.DataFrame:
    """Return one kind of comparison [n, d] of known rows with their groups."""
    if kind == "median":
        return columns.transform("median")
    if kind == "z":
        spread = columns.transform("std")
        size = own.abs().to_numpy() + 1
        return ((own - columns.transform("mean")) / spread).where(several & (spread.to_numpy() > 1e-9 * size))
    if kind == "difference":
        return (own - columns.transform("median")).where(several)
    if kind == "rank":
        return ((columns.rank() - 0.5) / columns.transform("count")).where(several)
    largest = columns.transform("max")
    return (own / largest).where(several & (largest.to_numpy() > 0))


def groups(lesions: pd.DataFrame, within: Within) -> np.ndarray:
    """Return the number of each row's group [n]: of its patient, or of patient and place; -1 where one is unknown.

    A column of places that the table lacks makes every group unknown.
    """
    if "patient_id" not in lesions:
        return np.full(len(lesions), -1)
    patient = pd.factorize(lesions["patient_id"])[0]
    column = PLACES[within]
    if column is None:
        return patient
    if column not in lesions:
        return np.full(len(lesions), -1)
    place = pd.factorize(lesions[column])[0]
    unknown = (patient < 0) | (place < 0)
    group = pd.factorize(patient.astype(np.int64) * (place.max(initial=0) + 1) + place)[0]
    return np.where(unknown, -1, group)
