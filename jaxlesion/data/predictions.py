"""The Predictions table: one row per lesion and model, in one CSV form."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from jaxlesion.core.config import MAX_FOLDS
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.tables import numbers, read_table, shown

COLUMNS = ("isic_id", "patient_id", "target", "fold", "prediction", "model")
CALIBRATED = "calibrated"  # an optional last column: calibrated probability of each row, by lines of other folds
CHUNK = 20_000  # rows that are text at a time
# The cells allowed, in words and as a test of float64 values.
NUMBERS: dict[str, tuple[str, Callable[[pd.Series], pd.Series]]] = {
    "prediction": ("in [0, 1]", lambda p: p.between(0, 1)),
    "target": ("0, 1 or empty", lambda t: t.isin([0, 1]) | t.isna()),
    CALIBRATED: ("in [0, 1] or empty", lambda p: p.between(0, 1) | p.isna()),
    "fold": (f"a whole number from 0 to {MAX_FOLDS - 1}, or empty", lambda f: f.isin(range(MAX_FOLDS)) | f.isna()),
}


def predictions_table(
    lesions: pd.DataFrame, prediction: np.ndarray, model: str, fold: int | None = None
) -> pd.DataFrame:
    """Make the Predictions table of some lesions.

    Args:
        lesions: n rows of the Lesions table; patient_id and target may be absent.
        prediction: [n] probability of malignancy, uncorrected.
        model: name of the predictor.
        fold: the fold that was held out; None for an ensemble.
    """
    n = len(lesions)
    return pd.DataFrame(
        {
            "isic_id": lesions["isic_id"].to_numpy(),
            "patient_id": lesions["patient_id"].to_numpy() if "patient_id" in lesions else [None] * n,
            "target": pd.array(lesions["target"] if "target" in lesions else [None] * n, dtype="Int8"),
            "fold": pd.array([fold] * n, dtype="Int8"),
            "prediction": prediction,
            "model": model,
        }
    )


def write_predictions(path: Path, table: pd.DataFrame, *, chunk_rows: int = CHUNK) -> None:
    """Write the table as CSV, whole or not at all; every prediction is read back as the same float.

    At most `chunk_rows` rows are text at a time; the file does not depend on it. `calibrated` is written where the
    table has it.
    """
    write_atomic(path, csv_bytes(_rows(table, chunk_rows), chunk_rows))


def as_written(prediction: ArrayLike) -> np.ndarray:
    """Return the predictions [n] as float64, as they are read back from a CSV.

    The text 0.1 is the float32 nearest to 0.1, and another float64: a threshold chosen on float32 would miss rows of
    the file.
    """
    prediction = np.asarray(prediction)
    if prediction.dtype != np.float32:
        return prediction.astype(np.float64)
    return np.array([float(str(p)) for p in prediction.ravel()], np.float64).reshape(prediction.shape)


def _rows(table: pd.DataFrame, chunk_rows: int) -> Iterator[Sequence[object]]:
    """Yield header and rows, made some rows at a time: as objects, cells take ten times the memory."""
    columns = _columns(table)
    yield columns
    for start in range(0, len(table), chunk_rows):
        part = table[columns].iloc[start : start + chunk_rows]
        cells = part.astype(object).where(part.notna(), "")
        for name in {"prediction", CALIBRATED}.intersection(columns):  # the shortest text that is this float
            cells[name] = ["" if np.isnan(p) else str(p) for p in part[name].to_numpy()]
        yield from cells.itertuples(index=False, name=None)


def _columns(table: pd.DataFrame) -> list[str]:
    return [*COLUMNS, *([CALIBRATED] if CALIBRATED in table else [])]


def csv_bytes(rows: Iterable[Sequence[object]], chunk_rows: int = CHUNK) -> Iterator[bytes]:
    """Encode rows as CSV in UTF-8, `chunk_rows` at a time."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(rows, start=1):
        writer.writerow(row)
        if number % chunk_rows == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def write_submission(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write the competition's form, `isic_id,target`, of ids and predictions as text."""
    write_atomic(path, csv_bytes(chain([("isic_id", "target")], rows)))


def predictions_as_text(path: Path) -> Iterator[tuple[str, str]]:
    """Yield isic_id and prediction, as text, of each row of a table that `write_predictions` wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["isic_id"], row["prediction"]


def read_predictions(path: Path, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
    """Read a Predictions table; columns beyond isic_id and prediction may be missing.

    `calibrated` is returned where the file has it.

    Args:
        path: the CSV.
        metadata: a Lesions table that gives target and patient_id by isic_id instead.

    Raises:
        InputError: no such file or column, a lesion twice for one model, a prediction that is not in [0, 1],
            another cell that is wrong, or a lesion unknown to `metadata`.
    """
    table = read_table(path, ("isic_id", "prediction"))
    for column in ("patient_id", "target", "fold", "model"):
        if column not in table:
            table[column] = pd.array([None] * len(table), dtype="string")
    if (twice := table.duplicated(["isic_id", "model"])).any():
        row = int(np.flatnonzero(twice)[0])
        raise InputError(
            f"{path}: line {row + 2}: {table['isic_id'][row]} is there twice for one model; keep one row for each"
        )
    if metadata is not None:
        known = metadata.set_index("isic_id")
        if (missing := ~table["isic_id"].isin(known.index)).any():
            raise InputError(f"{path}: {table['isic_id'][missing].iloc[0]} is not in the metadata")
        for column in ("target", "patient_id"):
            table[column] = table["isic_id"].map(known[column])
    for column in NUMBERS:
        if column in table:
            table[column] = _numbers(path, table, column)
    return table[_columns(table)].astype({"target": "Int8", "fold": "Int8"})


def _numbers(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """Convert a column of NUMBERS to float64, empty cells to NaN; InputError for the first cell not allowed."""
    wanted, holds = NUMBERS[column]
    number = numbers(table[column])
    if (bad := ~holds(number) | (number.isna() & table[column].notna())).any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{path}: line {row + 2}: {column} of {table['isic_id'][row]} is {shown(table[column][row])}, not {wanted}"
        )
    return number


def concatenate(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of several folds."""
    return pd.concat(tables, ignore_index=True)
