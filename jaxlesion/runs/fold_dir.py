"""The folder of one fold of a run, or of its model of all rows."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError, safe_open

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import remove_left_over, without_nan, write_atomic

LOCK = "lock"
MODEL = "model.safetensors"
STEP = "step"  # of the training, in the header of MODEL


@dataclass(frozen=True)
class FoldDir:
    """The folder of one fold of a run."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def oof(self) -> Path:
        """Predictions of the held-out rows; there once the fold is finished."""
        return self.folder / "oof.csv"

    @property
    def model(self) -> Path:
        """The variables that predict, in timm's names; there once the model of all rows is finished."""
        return self.folder / MODEL

    @property
    def started(self) -> bool:
        return self.checkpoints.is_dir()

    @property
    def has_checkpoint(self) -> bool:
        return self.started and any(path.name.isdecimal() for path in self.checkpoints.iterdir())

    @property
    def finished(self) -> bool:
        return self.oof.is_file() or self.model.is_file()

    def model_step(self) -> int:
        """Read the training step of `model` from its header.

        Raises:
            InputError: it is damaged, or something else than training wrote.
        """
        try:
            with safe_open(self.model, "numpy") as file:
                return int((file.metadata() or {})[STEP])
        except (OSError, SafetensorError, KeyError, ValueError) as e:
            reason = " ".join(str(e).split()) or type(e).__name__
            raise InputError(
                f"{self.model}: has no step in its header ({reason}); put back what training wrote"
            ) from None

    def lock(self) -> AbstractContextManager:
        """Take the lock of the fold; the system releases it when the process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            held = filelock.FileLock(self.folder / LOCK).acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"{self.folder}: another process is training this fold; wait, or train another") from None
        remove_left_over(self.folder)
        return held

    def metrics(self) -> list[dict[str, Any]]:
        """Read the records, one per epoch.

        Raises:
            InputError: the file is damaged.
        """
        path = self.folder / "metrics.jsonl"
        try:
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        except ValueError as e:
            raise InputError(f"{path}: not readable as JSON ({e}); put back what training wrote") from None

    def records(self, step: int, steps_per_epoch: int) -> list[dict[str, Any]]:
        """Return the records up to `step`; a later one may lack its checkpoint.

        Raises:
            InputError: metrics.jsonl has lost some.
        """
        records = [record for record in self.metrics() if record["step"] <= step]
        if len(records) != (epochs := step // steps_per_epoch):
            raise InputError(
                f"{self.folder / 'metrics.jsonl'} has {len(records)} of the {epochs} epochs up to step {step}, "
                f"which is saved: put back what training wrote, or delete {self.folder} to train it again"
            )
        return records

    def write_metrics(self, records: list[dict[str, Any]]) -> None:
        """Replace the records; what is undefined (one class only) is null."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(without_nan(record), allow_nan=False) + "\n" for record in records]
        write_atomic(self.folder / "metrics.jsonl", "".join(lines))

    def add_timing(self, record: dict[str, Any]) -> None:
        """Append a record of times; everything that a clock decides lives in this file alone."""
        path = self.folder / "timing.jsonl"
        write_atomic(path, (path.read_text() if path.exists() else "") + json.dumps(record) + "\n")
