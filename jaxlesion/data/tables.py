"""CSV files with ids, read and checked before anything is computed from them."""

import csv
import itertools
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.schema import valid_id

FORMULA = re.compile(r"^[=+\-@]|[\x00-\x1f\x7f]")  # a spreadsheet would compute it
MAX_HEADER = 2**20  # characters of the first line
MAX_COLUMNS = 10_000  # the competition's file has 55; pandas takes seconds for 100,000
CHUNK = 20_000  # rows whose text is in memory at a time: that of a whole table takes three times its size


def shown(value: object) -> str:
    """Format a cell for a message: quoted, on one line, cut where it is long."""
    return "empty" if pd.isna(value) else repr(str(value)[:80])


def numbers(cells: pd.Series) -> pd.Series:
    """Convert cells to float64, NaN where they are no number.

    Goes by way of text, since pandas raises for an integer of 310 digits.
    """
    if cells.dtype in (np.int64, np.float64):
        return cells.astype(float)
    return pd.to_numeric(cells.astype("string"), errors="coerce").astype(float)


def read_table(
    path: Path, required: Sequence[str], columns: Collection[str] | None = None, *, chunk_rows: int = CHUNK
) -> pd.DataFrame:
    """Read a CSV with well-formed ids as text; byte order marks, CRLF and mixed types are normal.

    Args:
        path: the CSV.
        required: columns that must be there, `isic_id` first.
        columns: the wanted ones; missing ones are ignored. None for every column.
        chunk_rows: rows parsed at a time; the table does not depend on it.

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
        table = _read_csv(path, columns, chunk_rows)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, csv.Error, StopIteration) as e:
        raise InputError(f"{path}: not a readable CSV ({' '.join(str(e).split()) or 'it is empty'})") from None
    for column in required:
        if column not in table:
            raise InputError(f"{path}: the column {column} is missing (it begins with {shown(', '.join(header[:5]))})")
        if header.count(column) > 1:
            raise InputError(f"{path}: the column {column} is there {header.count(column)} times; keep one of them")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells as names of the rows
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


def _read_csv(path: Path, columns: Collection[str] | None, chunk_rows: int) -> pd.DataFrame:
    """Read the wanted columns, typed by all rows; the index is a range unless rows are longer than the header."""
    options = {
        "dtype": dict.fromkeys(("isic_id", "patient_id", "model"), "string"),
        "encoding": "utf-8-sig",
        "low_memory": False,
        "usecols": None if columns is None else lambda column: column in columns,
    }
    with pd.read_csv(path, chunksize=chunk_rows, **options) as reader:
        chunks = list(reader)
    if len(chunks) == 1:
        return chunks[0]
    if (types := _common_types(chunks)) is None:
        return pd.read_csv(path, **options)
    ranges = all(isinstance(chunk.index, pd.RangeIndex) for chunk in chunks)
    return pd.concat([chunk.astype(types) for chunk in chunks], ignore_index=ranges)


def _common_types(chunks: Sequence[pd.DataFrame]) -> dict[str, object] | None:
    """Find the types of columns that are empty in some chunks; None where a type follows from all rows only."""
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
