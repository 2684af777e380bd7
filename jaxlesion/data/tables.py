"""Tables with ids, from CSV, compressed CSV or Parquet, checked before anything is computed from them."""

import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.identity import trim, trim_cells, without_suffix
from jaxlesion.data.schema import valid_id

FORMULA = re.compile(r"^[=+\-@]|[\x00-\x1f\x7f]")  # a spreadsheet would compute it
MAX_HEADER = 2**20  # characters of the first line
MAX_COLUMNS = 10_000  # the competition's file has 55; pandas takes seconds for 100,000
CHUNK = 20_000  # rows whose text is in memory at a time: that of a whole table takes three times its size
TEXT_COLUMNS = ("isic_id", "patient_id", "model")
TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")

# First bytes of files that are taken for tables, and what to do about them.
_NO_CSV = (
    (b"PK\x03\x04", "an Excel workbook or another archive: save it as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: save it as CSV (UTF-8)"),
    (b"\xff\xfe", "UTF-16: save it as CSV in UTF-8"),
    (b"\xfe\xff", "UTF-16: save it as CSV in UTF-8"),
    (b"\x89HDF", "an HDF5 file, which holds images and no table"),
)
UNREADABLE = (OSError, EOFError, zlib.error, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, csv.Error)


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


def place(path: Path, row: int) -> str:
    """Say where data row `row`, from 0, of a table is: by its line, counting blank lines and cells of several lines."""
    if not _is_parquet(path):
        at, seen = 1, -1
        try:
            with _open_text(path) as file:
                rows = csv.reader(file)
                for cells in rows:
                    if len(cells) > 1 or "".join(cells).strip():
                        if seen == row:
                            return f"line {at}"
                        seen += 1
                    at = rows.line_num + 1
        except UNREADABLE:
            pass
    return f"row {row + 1}"


def read_header(path: Path) -> list[str]:
    """Read the names of a table's columns, trimmed, in order.

    Raises:
        InputError: no such file, or not a table.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a table (CSV, .csv.gz or Parquet)")
    try:
        if _is_parquet(path):
            return [trim(name) for name in _parquet_header(path)]
        with open(path, "rb") as file:
            start = file.read(8)
        for magic, what in _NO_CSV:
            if start.startswith(magic):
                raise InputError(f"{path}: is {what}")
        with _open_text(path) as file:
            lines = iter(lambda: file.readline(MAX_HEADER), "")
            first = next((line for line in lines if line.strip()), "")
            if len(first) == MAX_HEADER:
                raise InputError(f"{path}: has a first line of over {MAX_HEADER:,} characters; is it a CSV?")
            if not first:
                raise InputError(f"{path}: not a readable CSV (it is empty)")
            rows = csv.reader(itertools.chain([first], lines))
            header = next(rows)
            columns_there = max(len(header), len(next(rows, ())))  # pandas refuses a later row that is longer
    except UNREADABLE as e:
        raise _unreadable(path, e) from None
    if columns_there > MAX_COLUMNS:
        raise InputError(f"{path}: has {columns_there:,} columns, where at most {MAX_COLUMNS:,} are read")
    return [trim(name) for name in header]


def read_table(
    path: Path,
    required: Sequence[str],
    columns: Collection[str] | None = None,
    *,
    renamed: Mapping[str, str] | None = None,
    chunk_rows: int = CHUNK,
) -> pd.DataFrame:
    """Read a table with well-formed ids as text; byte order marks, CRLF and mixed types are normal.

    Texts are trimmed, and an isic_id loses the suffix of an image file.

    Args:
        path: CSV, `.csv.gz` or `.parquet`.
        required: columns that must be there, `isic_id` first.
        columns: the wanted ones; missing ones are ignored. None for every column.
        renamed: our name by the file's; `required` and `columns` are ours.
        chunk_rows: rows parsed at a time; the table does not depend on it.

    Raises:
        InputError: no such file, not a table, a missing or doubled column, a malformed id, or a patient_id or model
            that a spreadsheet would take for a formula.
    """
    theirs = read_header(path)
    header = [(renamed or {}).get(name, name) for name in theirs]
    for column in required:
        if column not in header:
            raise InputError(f"{path}: the column {column} is missing ({_instead(column, theirs)})")
        if header.count(column) > 1:
            raise InputError(f"{path}: the column {column} is there {header.count(column)} times; keep one of them")
    try:
        table = (_read_parquet if _is_parquet(path) else _read_csv)(path, header, columns, chunk_rows)
    except UNREADABLE as e:
        raise _unreadable(path, e) from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells as names of the rows
        raise InputError(f"{path}: the rows have more cells than the header has names; end no row with a comma")
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = trim_cells(table[column])
    _check_texts(path, table)
    return table


def _check_texts(path: Path, table: pd.DataFrame) -> None:
    """Clean the ids of a table in place, and refuse those that cannot be written into other tables."""
    table["isic_id"] = pd.array(
        [without_suffix(cell) if isinstance(cell, str) else cell for cell in table["isic_id"].tolist()], dtype="string"
    )
    for row, isic_id in enumerate(table["isic_id"].tolist()):
        if not valid_id(isic_id):
            raise InputError(
                f"{path}: {place(path, row)}: isic_id {shown(isic_id)} "
                "is not 1 to 64 of A-Z a-z 0-9 _ . -, letter or digit first"
            )
    for column in ("patient_id", "model"):  # text that is written into other tables
        if column in table and (bad := [cell for cell in table[column].dropna().unique() if FORMULA.search(cell)]):
            row = int((table[column] == bad[0]).to_numpy(bool, na_value=False).argmax())
            raise InputError(
                f"{path}: {place(path, row)}: {column} {shown(bad[0])} begins like a formula or has control characters"
            )


def _instead(column: str, names: Sequence[str]) -> str:
    """Say what a table has in place of a missing column."""
    for name in names:
        if name.casefold() == column.casefold():
            return f"there is {name}; rename it"
    if len(names) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), None)):
        return f"its cells are separated by {mark!r}; save it with commas"
    return f"it begins with {shown(', '.join(names[:5]))}"


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, UnicodeError):
        return InputError(f"{path}: is not UTF-8 ({' '.join(str(error).split())}); save it as CSV in UTF-8")
    kind = "Parquet file" if _is_parquet(path) else "CSV"
    return InputError(f"{path}: not a readable {kind} ({' '.join(str(error).split()) or 'it is empty'})")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _open_text(path: Path) -> IO[str]:
    """Open a CSV as text; where its name ends with .gz it is decompressed."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")


def _parquet_header(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except pa.ArrowException as e:
        raise OSError(str(e)) from None


def _read_parquet(path: Path, header: list[str], columns: Collection[str] | None, _: int) -> pd.DataFrame:
    import pyarrow as pa

    wanted = [i for i, name in enumerate(header) if columns is None or name in columns]
    names = _parquet_header(path)
    try:
        table = pd.read_parquet(path, columns=[names[i] for i in wanted]).reset_index(drop=True)
    except pa.ArrowException as e:
        raise OSError(str(e)) from None
    table.columns = [header[i] for i in wanted]
    for column in table:
        kind = table[column].dtype
        if column in TEXT_COLUMNS or not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)):
            table[column] = table[column].astype("string")  # dictionaries, dates and the like too
    return table


def _read_csv(path: Path, header: list[str], columns: Collection[str] | None, chunk_rows: int) -> pd.DataFrame:
    """Read the wanted columns, typed by all rows; the index is a range unless rows are longer than the header."""
    # By our names, since the file's may be renamed; pandas would number doubled ones.
    names = [name if header.index(name) == i else f"{name}.{header[:i].count(name)}" for i, name in enumerate(header)]
    options = {
        "header": 0,
        "names": names,
        "dtype": dict.fromkeys(TEXT_COLUMNS, "string"),
        "encoding": "utf-8-sig",
        "compression": "gzip" if path.suffix.lower() == ".gz" else None,
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
