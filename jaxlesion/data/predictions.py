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
from jaxlesion.core.hooks import ignore
from jaxlesion.data.identity import alike
from jaxlesion.data.tables import numbers, place, read_header, read_table, shown

COLUMNS = ("isic_id", "patient_id", "target", "fold", "prediction", "model")
CALIBRATED = "calibrated"  # an optional last column: calibrated probability of each row, by lines of other folds
CHUNK = 20_000  # rows that are text at a time
# The cells allowed, in words and as a test of float64 values.
NUMBERS: dict[str, tuple[str, Callable[[pd.Series], pd.Series]]] = {
    "prediction": ("in [0, 1]", lambda p: p.between(0, 1) | p.isna()),
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
            yield text.getvalue().encode(errors="surrogateescape")
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode(errors="surrogateescape")


def write_submission(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write the competition's form, `isic_id,target`, of ids and predictions as text."""
    write_atomic(path, csv_bytes(chain([("isic_id", "target")], rows)))


def predictions_as_text(path: Path) -> Iterator[tuple[str, str]]:
    """Yield isic_id and prediction, as text, of each row of a table that `write_predictions` wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["isic_id"], row["prediction"]


def read_predictions(
    path: Path,
    truth: pd.DataFrame | None = None,
    *,
    allow_missing: bool = False,
    say: Callable[[str], None] = ignore,
) -> pd.DataFrame:
    """Read a Predictions table; columns beyond isic_id and prediction may be missing.

    `calibrated` is returned where the file has it.

    Args:
        path: the CSV. With `truth` also the competition's form, whose column target is the prediction.
        truth: a Lesions table that gives target and patient_id by isic_id instead.
        allow_missing: leave out rows without a prediction or a fold, rows that `truth` lacks, and lesions of `truth`
            that have no row; `say` is told how many. Else they are refused.
        say: called with sentences.

    Raises:
        InputError: no such file or column, a lesion twice for one model, a prediction that is not in [0, 1],
            another cell that is wrong, a target that is not that of `truth`, or rows that are missing.
    """
    header = read_header(path)
    submission = set(header) == {"isic_id", "target"}
    if submission and truth is None:
        raise InputError(
            f"{path}: the column prediction is missing; if it is a submission, give --metadata, a table of the targets"
        )
    table = read_table(path, ("isic_id", "prediction"), renamed={"target": "prediction"} if submission else None)
    for column in ("patient_id", "target", "fold", "model"):
        if column not in table:
            table[column] = pd.array([None] * len(table), dtype="string")
    if (twice := table.duplicated(["isic_id", "model"])).any():
        row = int(np.flatnonzero(twice)[0])
        raise InputError(
            f"{path}: {place(path, row)}: {table['isic_id'][row]} is there twice for one model; keep one row for each"
        )
    for column in NUMBERS:
        if column in table:
            table[column] = _numbers(path, table, column)
    table = _complete(path, table, truth, allow_missing, say)
    if truth is not None:
        table = _with_truth(path, table, truth)
    return table[_columns(table)].astype({"target": "Int8", "fold": "Int8"})


def _complete(
    path: Path, table: pd.DataFrame, truth: pd.DataFrame | None, allowed: bool, say: Callable[[str], None]
) -> pd.DataFrame:
    """Return the rows that can be scored; refuse the others, or say how many are left out."""
    no_prediction = table["prediction"].isna()
    has_fold = table["fold"].notna()
    unusable = {
        "have no prediction": no_prediction,
        "have no fold, and others have one": ~has_fold
        & has_fold.groupby(table["model"], dropna=False).transform("any"),
    }
    counted = []
    if truth is not None:
        unusable["are not in the table of targets"] = ~table["isic_id"].isin(truth["isic_id"])
        missing = truth.loc[~truth["isic_id"].isin(table["isic_id"]), "isic_id"]
        counted.append((f"of {len(truth):,} lesions of the table of targets have no row", missing))
    counted += [(f"of {len(table):,} rows {why}", table.loc[rows, "isic_id"]) for why, rows in unusable.items()]
    for what, ids in counted:
        if len(ids) and not allowed:
            unmatched = set() if truth is None else set(table["isic_id"]) ^ set(truth["isic_id"])
            if (pair := alike(ids, sorted(unmatched - set(ids)))) is not None:
                raise InputError(f"{path}: {len(ids):,} {what}: {pair[1]!r} reads like {pair[0]!r}; write ids alike")
            raise InputError(
                f"{path}: {len(ids):,} {what}, {ids.iloc[0]} first; complete them, or give --allow-missing to leave "
                "them out"
            )
        if len(ids):
            say(f"{path}: {len(ids):,} {what}: left out")
    usable = table[~np.logical_or.reduce([rows.to_numpy(bool) for rows in unusable.values()])].reset_index(drop=True)
    if len(usable) == 0 < len(table):
        raise InputError(f"{path}: no row of it can be scored")
    return usable


def _with_truth(path: Path, table: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the targets of `truth`, and its patients where it has them."""
    known = truth.set_index("isic_id")
    target = table["isic_id"].map(known["target"])
    if (differs := table["target"].notna() & (table["target"] != target)).any():
        row = int(np.flatnonzero(differs)[0])
        raise InputError(
            f"{path}: target of {table['isic_id'][row]} is {table['target'][row]:.0f}, and {target[row]:.0f} in the "
            "table of targets; correct one of them"
        )
    patients = {"patient_id": table["isic_id"].map(known["patient_id"])} if "patient_id" in known else {}
    return table.assign(target=target, **patients)


def _numbers(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """Convert a column of NUMBERS to float64, empty cells to NaN; InputError for the first cell not allowed."""
    wanted, holds = NUMBERS[column]
    number = numbers(table[column])
    if (bad := ~holds(number) | (number.isna() & table[column].notna())).any():
        row = int(np.flatnonzero(bad)[0])
        cell = f"{column} of {table['isic_id'][row]} is {shown(table[column][row])}"
        raise InputError(f"{path}: {place(path, row)}: {cell}, not {wanted}")
    return number


def concatenate(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of several folds."""
    return pd.concat(tables, ignore_index=True)
