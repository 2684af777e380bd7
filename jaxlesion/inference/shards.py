"""A Predictions table made shard by shard: a kill loses one at most, and machines share the work without messages.

Shards lie in `<table>.parts` beside the table until all are there. `prediction.json` in that folder names their data,
checkpoints and options, so that no other prediction is ever added to them.
"""

import csv
import itertools
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import is_stream, write_atomic
from jaxlesion.data.predictions import COLUMNS, csv_bytes, write_predictions

ROWS = 65_536  # in a shard, by default
KEY = "prediction.json"
LAUNCHERS = (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))


class Part(NamedTuple):
    """Names one of `count` processes that share the shards: number `index`, from 0."""

    index: int
    count: int

    @classmethod
    def of(cls, text: str | None, environment: Mapping[str, str]) -> Self:
        """Parse `--part`, such as 0/4; without it take the part from SLURM's srun or Open MPI, else 0/1.

        Raises:
            InputError: no part of that form, or one that does not exist.
        """
        if text is None:
            given = [tuple(environment[name] for name in names) for names in LAUNCHERS if {*names} <= {*environment}]
            text = "/".join(given[0]) if given else "0/1"
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        part = cls(*map(int, numbers.groups())) if numbers else None
        if part is None or part.index >= part.count:
            raise InputError(f"--part {text}: give I/N, such as 0/4 to 3/4 for four processes")
        return part

    def shards(self, count: int) -> range:
        """Return the numbers of the shards that this process makes, of `count`."""
        return range(self.index, count, self.count)


class Shards:
    """Keeps the shards of one table.

    Args:
        out: the table; beside a stream nothing is kept, and the shards lie in a temporary folder.
        isic_ids: of all its rows, in their order.
        rows: of each shard; the last one may have fewer.
        key: everything that the predictions depend on, as JSON.

    Raises:
        InputError: the folder holds shards of something else.
    """

    def __init__(self, out: Path, isic_ids: Sequence[str], rows: int, key: Mapping[str, object]):
        self.out, self.ids, self.size = out, isic_ids, rows
        self.kept_in = TemporaryDirectory(prefix="jaxlesion-") if is_stream(out) else None
        beside = Path(self.kept_in.name) / "predictions.csv" if self.kept_in else out
        self.folder = beside.with_name(f"{beside.name}.parts")
        self._begin(json.loads(json.dumps({**key, "shard rows": rows})))

    def __len__(self) -> int:
        return -(-len(self.ids) // self.size)

    def rows(self, shard: int) -> range:
        """Return the row numbers of a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, len(self.ids)))

    def missing(self, part: Part | None = None) -> list[int]:
        """List the numbers of the shards still to be made, of all or by one part."""
        numbers = range(len(self)) if part is None else part.shards(len(self))
        return [shard for shard in numbers if not self._path(shard).is_file()]

    def write(self, shard: int, table: pd.DataFrame) -> None:
        """Write a shard, whole or not at all."""
        with self._unless_merged():
            write_predictions(self._path(shard), table)

    def merge(self) -> bool:
        """Write the table, row by row, if all shards are there; return whether it is. Two at once do no harm.

        Raises:
            InputError: a shard does not hold its rows.
        """
        if self.missing() and self.folder.is_dir():  # in this order: another process may remove it at any time
            return False
        with self._unless_merged():
            write_atomic(self.out, csv_bytes(self._all_rows()))
        return True

    def predictions(self) -> Iterator[tuple[str, str]]:
        """Yield isic_id and prediction, as text, of each row; until `remove`."""
        return ((row[0], row[COLUMNS.index("prediction")]) for row in itertools.islice(self._all_rows(), 1, None))

    def remove(self) -> None:
        """Remove the shards; a kill at any moment leaves all of them under their name, or none."""
        gone = self._elsewhere()
        with suppress(FileNotFoundError):  # another process was faster
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.csv"

    def _elsewhere(self) -> Path:
        return self.folder.with_name(f".{uuid.uuid4().hex}.tmp")

    def _begin(self, key: dict[str, object]) -> None:
        if not self.folder.exists():
            draft = self._elsewhere()
            draft.mkdir()
            try:
                write_atomic(draft / KEY, json.dumps(key, indent=2) + "\n")
                draft.rename(self.folder)
            except OSError as error:
                if not self.folder.is_dir():  # else another process was faster
                    error.filename, error.filename2 = str(self.folder), None  # not the name of the removed draft
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        try:
            stored = json.loads((self.folder / KEY).read_text())
            differing = [name for name, value in key.items() if stored.get(name) != value]
        except (OSError, ValueError, AttributeError):
            differing = [f"{KEY}, which cannot be read"]
        if differing:
            raise InputError(
                f"{self.folder} holds parts of another prediction (other {differing[0]}): "
                "give the command that they were begun with, another --out, or delete the folder"
            )

    @contextmanager
    def _unless_merged(self) -> Iterator[None]:
        """Ignore a missing file or folder once another process has merged and removed all shards."""
        try:
            yield
        except FileNotFoundError:
            if self.folder.is_dir() or not self.out.is_file():
                raise

    def _all_rows(self) -> Iterator[Sequence[str]]:
        yield COLUMNS
        for shard in range(len(self)):
            path = self._path(shard)
            with open(path, encoding="utf-8", newline="") as file:
                try:
                    rows = csv.reader(file)
                    if tuple(next(rows, ())) != COLUMNS:
                        raise ValueError("another header")
                    for row, number in zip(rows, self.rows(shard), strict=True):
                        if len(row) != len(COLUMNS) or row[0] != self.ids[number]:
                            raise ValueError("another row")
                        yield row
                except (ValueError, csv.Error) as e:
                    raise InputError(
                        f"{path} does not hold its rows ({e}): delete it, and give the command again"
                    ) from None
