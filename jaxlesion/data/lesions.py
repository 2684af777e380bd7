"""The Lesions table: one checked row per lesion."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.schema import KEYS
from jaxlesion.data.tables import numbers, read_table, shown


def read_lesions(path: Path, *, labelled: bool = True, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read the Lesions table of one metadata file; every other column is kept as it is.

    Args:
        path: a CSV with `isic_id`, and if labelled also `patient_id` and `target`.
        labelled: whether `target` and `patient_id` must be there.
        columns: see `read_table`.

    Returns:
        Columns `isic_id`, `patient_id` (text) and `target` (int8), then the others, rows in the file's
        order; without labels, `patient_id` and `target` only where the file has them.

    Raises:
        InputError: see `read_table`; also a doubled id, a missing patient or a target outside {0, 1}.
    """
    table = read_table(path, ("isic_id", "patient_id", "target") if labelled else ("isic_id",), columns)
    if len(table) == 0:
        raise InputError(f"{path}: there is a header but no row")
    if (twice := table["isic_id"].duplicated()).any():
        row = int(np.flatnonzero(twice)[0])
        raise InputError(f"{path}: line {row + 2}: {table['isic_id'][row]} is there twice; keep one row per lesion")
    if labelled:
        if (empty := table["patient_id"].isna()).any():
            row = int(np.flatnonzero(empty)[0])
            raise InputError(
                f"{path}: line {row + 2}: {table['isic_id'][row]} has no patient_id, which folds are made by"
            )
        target = numbers(table["target"])
        if (bad := ~target.isin([0, 1])).any():
            row = int(np.flatnonzero(bad)[0])
            which, cell = table["isic_id"][row], shown(table["target"][row])
            raise InputError(f"{path}: line {row + 2}: target of {which} is {cell}, not 0 or 1")
        table["target"] = target.astype(np.int8)
    first = [c for c in KEYS[:3] if c in table]
    return table[first + [c for c in table.columns if c not in first]]
