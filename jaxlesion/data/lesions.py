"""The Lesions table: one checked row per lesion."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.config import Layout
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import ignore
from jaxlesion.data.schema import KEYS, is_number
from jaxlesion.data.spellings import OURS, Spelling, describe, one_hot_label, recognise, targets
from jaxlesion.data.tables import numbers, place, read_header, read_table, shown


def read_lesions(
    path: Path,
    *,
    labelled: bool = True,
    columns: Collection[str] | None = None,
    layout: Layout | None = None,
    say: Callable[[str], None] = ignore,
) -> pd.DataFrame:
    """Read the Lesions table of one metadata file; every other column is kept as it is.

    Args:
        path: a table with `isic_id`, and if labelled also `target`, by these or by published names.
        labelled: whether `target` must be there, and `patient_id` complete.
        columns: see `read_table`.
        layout: the names of columns and of malignant labels.
        say: called with sentences on how the table was understood.

    Returns:
        Columns `isic_id`, `patient_id` (text) and `target` (int8), then the others, rows in the file's
        order; `patient_id`, and without labels `target`, only where the file has them.

    Raises:
        InputError: see `read_table`; also a doubled id, a missing patient, a target that cannot be understood, or
            text in a column that the challenge defines as numbers.
    """
    layout = layout or Layout()
    header = read_header(path)
    spelling = recognise(header, layout)
    several = spelling.target if len(spelling.target) > 1 else ()
    wanted = None if columns is None else {*columns, *several}
    required = ("isic_id",) if several or not labelled else ("isic_id", "target")
    table = read_table(path, required, wanted, renamed=spelling.columns)
    if len(table) == 0:
        raise InputError(f"{path}: there is a header but no row")
    if (twice := table["isic_id"].duplicated()).any():
        row = int(np.flatnonzero(twice)[0])
        raise InputError(f"{path}: {place(path, row)}: {table['isic_id'][row]} is there twice; keep one row per lesion")
    for column in table.columns:
        if is_number(column):
            table[column] = _as_numbers(path, table, column)
    if sentence := describe(spelling, layout, dict.fromkeys(header)):
        say(f"{path.name}: {sentence}")
    if labelled:
        if several:
            table["target"] = one_hot_label(table, several)
            table = table.drop(columns=list(several))
        table = _labelled(path, table, spelling, layout, say)
    first = [c for c in KEYS[:3] if c in table]
    return table[first + [c for c in table.columns if c not in first]]


def _labelled(
    path: Path, table: pd.DataFrame, spelling: Spelling, layout: Layout, say: Callable[[str], None]
) -> pd.DataFrame:
    """Check targets and patients, and leave out the lesions that a published table does not label."""
    target, bad = targets(table["target"], spelling, layout)
    if bad is not None:
        raise InputError(
            f"{path}: {place(path, bad)}: target of {table['isic_id'][bad]} is {shown(table['target'][bad])}, not 0 or "
            "1; correct it, or name the malignant labels by --data.positive"
        )
    if spelling is OURS and "patient_id" in table and (empty := table["patient_id"].isna()).any():
        row = int(np.flatnonzero(empty)[0])
        raise InputError(
            f"{path}: {place(path, row)}: {table['isic_id'][row]} has no patient_id, which folds are made by; "
            "fill it in, or remove the column and give --folds.group none"
        )
    known = target.notna()
    if not known.all():
        say(f"{path.name}: {(~known).sum():,} of {len(table):,} lesions are neither benign nor malignant: left out")
        table, target = table[known].reset_index(drop=True), target[known].reset_index(drop=True)
        if len(table) == 0:
            raise InputError(f"{path}: no lesion of it is labelled benign or malignant")
    table["target"] = target.astype(np.int8)
    if "patient_id" in table and (empty := table["patient_id"].isna()).any():
        say(f"{path.name}: {empty.sum():,} of {len(table):,} lesions have no patient_id: each is one of its own")
        table["patient_id"] = table["patient_id"].fillna(table["isic_id"])
    return table


def _as_numbers(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column of numbers; InputError for the first cell that is none, such as `3,2` or `3.2 mm`."""
    cells = table[column]
    if pd.api.types.is_numeric_dtype(cells):
        return cells
    number = numbers(cells)
    if (bad := (number.isna() & cells.notna()).to_numpy(bool)).any():
        row, others = int(bad.argmax()), int(bad.sum()) - 1
        more = f" (nor are {others:,} more)" if others else ""
        cell = f"{column} of {table['isic_id'][row]} is {shown(cells[row])}"
        raise InputError(
            f"{path}: {place(path, row)}: {cell}, not a number{more}; write numbers with a point and without a unit, "
            "and leave unknown ones empty"
        )
    return number
