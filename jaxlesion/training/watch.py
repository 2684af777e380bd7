"""TensorBoard: the events of a training as curves and pictures, beside metrics.jsonl."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError

FOLDER = "tensorboard"  # in the folder of a fold
SHOWN = 16  # training images on the contact sheet


def import_tensorboard() -> Any:
    """Import the package tensorboardX.

    Raises:
        InputError: it is not installed.
    """
    try:
        import tensorboardX
    except ImportError:
        raise InputError('--log tensorboard needs tensorboardX: pip install "jaxlesion[tensorboard]"') from None
    return tensorboardX


class TensorBoard:
    """Writes events as `Hooks.observe` gets them, to `fold_K/tensorboard`.

    There are: the loss of every step; the metrics on the validation rows and the rate of every epoch; the first
    training images as they were augmented; and the precision-recall curve of the held-out rows. A resumed fold
    replaces what was written after its checkpoint.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self) -> None:
        self._package = import_tensorboard()
        self._folder, self._images, self._writer, self._step = Path(), None, None, 0

    def __call__(self, event: str, **details: Any) -> None:
        """Take an event; most are ignored."""
        if handle := getattr(self, f"_on_{event}", None):
            handle(**details)

    def _on_fold(self, folder: Path, images: Callable[[], np.ndarray], **_: Any) -> None:
        self._folder, self._images, self._writer = folder / FOLDER, images, None

    def _on_step(self, step: int, rows: np.ndarray) -> None:
        if self._writer is None:
            self._writer = self._package.SummaryWriter(str(self._folder), purge_step=step)
            if step == 1:
                sheet = self._images()[:SHOWN]
                self._writer.add_images("training images, augmented", sheet, step, dataformats="NHWC")
        self._step = step

    def _on_loss(self, loss: float) -> None:
        self._writer.add_scalar("loss/step", loss, self._step)

    def _on_epoch(self, record: dict[str, Any], times: dict[str, float]) -> None:
        if self._writer is None:
            return
        self._writer.add_scalar("loss/epoch", record["loss"], record["step"])
        for name, value in record.get("validation", {}).items():
            if value is not None and np.isfinite(value):
                self._writer.add_scalar(f"validation/{name}", value, record["step"])
        for name, value in times.items():
            self._writer.add_scalar(f"times/{name}", value, record["step"])
        self._writer.flush()

    def _on_finished(self, table: pd.DataFrame | None) -> None:
        if self._writer is None:
            return
        if table is not None:
            target, prediction = table["target"].to_numpy(int), table["prediction"].to_numpy(np.float64)
            self._writer.add_pr_curve("held-out rows", target, prediction, self._step)
        self._writer.close()
        self._writer = None


def both(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    """Return a function that hands each event to both."""

    def observe(event: str, **details: Any) -> None:
        first(event, **details)
        second(event, **details)

    return observe
