"""The Lesions table: one checked row per lesion."""

import csv
import itertools
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.sources import valid_id

# Known only after a biopsy, or computed from it: present in training files, absent at test time. A
# model that sees one of them is told the answer.
LABEL_SIDE_PREFIXES = ("lesion_id", "iddx_", "mel_", "tbp_lv_dnn_lesion_confidence")
KEYS = ("isic_id", "patient_id", "target", "fold")
FORMULA = re.compile(r"^[=+\-@]|[\x00-\x1f\x7f]")  # what a spreadsheet would compute
MAX_HEADER = 2**20  # characters of the first line
MAX_COLUMNS = 10_000  # the competition's file has 55; pandas takes seconds for 100,000
CHUNK = 20_000  # rows whose text is in memory at a time: that of a whole table takes three times its size


def is_label_side(column: str) -> bool:
    """Whether a column leaks the label."""
    return column.startswith(LABEL_SIDE_PREFIXES)


def feature_columns(lesions: pd.DataFrame) -> list[str]:
    """Metadata columns that a model may use: no key, nothing from the label's side."""
    return [c for c in lesions.columns if c not in KEYS and not is_label_side(c)]


def shown(value: object) -> str:
    """A cell as a message shows it: quoted, on one line, cut where it is long."""
    return "empty" if pd.isna(value) else repr(str(value)[:80])


def numbers(cells: pd.Series) -> pd.Series:
    """Cells as float64, NaN for what is no number. By way of text, since pandas raises for an integer of 310 digits."""
    if cells.dtype in (np.int64, np.float64):
        return cells.astype(float)
    return pd.to_numeric(cells.astype("string"), errors="coerce").astype(float)


def read_table(path: Path, required: Sequence[str], columns: Collection[str] | None = None) -> pd.DataFrame:
    """A CSV with well-formed ids as text; byte order marks, CRLF and mixed types are normal.

    Args:
        path: the CSV.
        required: columns that must be there, `isic_id` first.
        columns: all that are wanted, as far as they are there; None for every column.

    Raises:
        InputError: no such file, not a CSV, a missing or doubled column, a malformed id, or a patient_id or model
            that a spreadsheet would take for a formula.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a CSV with the column {required[0]}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = iter(lambda: file.readline(MAX_HEADER), "")
            first = next(lines)
            if len(first) == MAX_HEADER:
                raise InputError(f"{path}: has a first line of over {MAX_HEADER:,} characters; is it a CSV?")
            rows = csv.reader(itertools.chain([first], lines))
            header = next(rows)
            columns_there = max(len(header), len(next(rows, ())))  # pandas refuses a later row that is longer
        if columns_there > MAX_COLUMNS:
            raise InputError(f"{path}: has {columns_there:,} columns, where at most {MAX_COLUMNS:,} are read")
        table = _read_csv(path, columns)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, csv.Error, StopIteration) as e:
        raise InputError(f"{path}: not a readable CSV ({' '.join(str(e).split()) or 'it is empty'})") from None
    for column in required:
        if column not in table:
            raise InputError(f"{path}: the column {column} is missing (it begins with {shown(', '.join(header[:5]))})")
        if header.count(column) > 1:
            raise InputError(f"{path}: the column {column} is there {header.count(column)} times; keep one of them")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells for names of the rows
        raise InputError(f"{path}: the rows have more cells than the header has names; end no row with a comma")
    for row, isic_id in enumerate(table["isic_id"].tolist()):
        if not valid_id(isic_id):
            raise InputError(
                f"{path}: line {row + 2}: isic_id {shown(isic_id)} "
                "is not 1 to 64 of A-Z a-z 0-9 _ . -, letter or digit first"
            )
    for column in ("patient_id", "model"):  # text that is written into other tables
        if column in table and (bad := [cell for cell in table[column].dropna().unique() if FORMULA.search(cell)]):
            row = int((table[column] == bad[0]).to_numpy(bool, na_value=False).argmax())
            raise InputError(
                f"{path}: line {row + 2}: {column} {shown(bad[0])} begins like a formula or has control characters"
            )
    return table


def _read_csv(path: Path, columns: Collection[str] | None) -> pd.DataFrame:
    """The wanted columns, typed by all of their rows; the index is a range unless rows are longer than the header."""
    options = {
        "dtype": dict.fromkeys(("isic_id", "patient_id", "model"), "string"),
        "encoding": "utf-8-sig",
        "low_memory": False,
        "usecols": None if columns is None else lambda column: column in columns,
    }
    with pd.read_csv(path, chunksize=CHUNK, **options) as reader:
        chunks = list(reader)
    if len(chunks) == 1:
        return chunks[0]
    if (types := _common_types(chunks)) is None:
        return pd.read_csv(path, **options)
    ranges = all(isinstance(chunk.index, pd.RangeIndex) for chunk in chunks)
    return pd.concat([chunk.astype(types) for chunk in chunks], ignore_index=ranges)


def _common_types(chunks: Sequence[pd.DataFrame]) -> dict[str, object] | None:
    """The types of columns that are empty in some chunks; None where only all rows together can tell a column's."""
    types, numeric = {}, {np.dtype(np.int64), np.dtype(np.float64)}
    for column in chunks[0] if chunks else ():
        parts = [chunk[column] for chunk in chunks]
        kinds = {part.dtype for part in parts}
        if len(kinds) > 1 and not kinds <= numeric:  # whole and broken numbers make a column of broken ones
            filled = {part.dtype for part in parts if not part.isna().all()}
            if len(filled) > 1 or np.dtype(bool) in filled:
                return None
            types[column] = filled.pop()
    return types if chunks else None


def read_lesions(path: Path, *, labelled: bool = True, columns: Collection[str] | None = None) -> pd.DataFrame:
    """The Lesions table of one metadata file, every other column kept as it is.

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
