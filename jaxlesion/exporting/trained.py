"""Networks of a run that are exported, with all that another program needs to use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluation.calibration import Calibration
from jaxlesion.evaluation.thresholds import best_f1
from jaxlesion.inference.predictor import Which, finished_folds, members_of, restore_variables
from jaxlesion.model.efficientnet import EfficientNetV2
from jaxlesion.model.onnx_graph import Correction
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import Variables, digest
from jaxlesion.runs.store import Run, model_name

Fold = Literal["all", "none"] | int | None
WARNING = "For research. Not a medical device."
CARDS = ("README.md", "report/model_card.md")  # of a released model, of a run with a report


@dataclass(frozen=True)
class Trained:
    """The networks of a run that are exported."""

    run: Run
    model: EfficientNetV2
    models: list[str]
    """[k] names of the checkpoints, such as fold_0/480."""
    members: list[Variables]
    """[k] variables, float32."""
    calibration: Calibration | None
    """None where the run has none of these checkpoints."""

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.run.config.data.image_size

    @property
    def resizing(self) -> str:
        """Say how an image must be resized before."""
        antialiased = "antialiased" if self.run.config.data.antialias else "not antialiased"
        return f"the whole crop to {self.image_size} x {self.image_size} pixels, bilinear, {antialiased}"

    def correction(self) -> Correction | None:
        """Return the calibration of the logits, as `Calibration.new_rows` applies it to their sigmoids."""
        if self.calibration is None:
            return None
        return Correction(self.calibration.offsets(self.models), self.calibration.a, self.calibration.b)

    def threshold(self) -> float | None:
        """Return the threshold of the best F1 on the run's held-out rows, for uncorrected predictions; None without."""
        path = self.run.folder / "oof.csv"
        if self.run.released or not path.is_file():
            return None
        table = read_predictions(path)
        found = best_f1(table["target"], table["prediction"])
        return None if np.isnan(found) else found

    def about(self) -> dict[str, str]:
        """Return what another program should know of the file, as texts."""
        threshold = self.threshold()
        return {
            "warning": WARNING,
            "written_by": f"jaxlesion {version('jaxlesion')}",
            "network": self.run.config.model.variant,
            "checkpoints": " ".join(self.models),
            "sha256_of_variables": digest(self.members),
            "resize": self.resizing,
            **({} if threshold is None else {"threshold_of_prediction": f"{threshold:.6g}"}),
            **({} if (card := card_of(self.run)) is None else {"card": card}),
        }


def card_of(run: Run) -> str | None:
    """Return the model card of a run; None where none has been written."""
    found = (run.folder / name for name in CARDS)
    return next((path.read_text() for path in found if path.is_file()), None)


def folds_meant(run: Run, fold: Fold = None) -> list[int]:
    """Return the finished folds that are exported, or [ALL_ROWS].

    Args:
        run: of a network, or a released model.
        fold: the number of a finished fold; all or none, see `members_of`.

    Raises:
        InputError: no such fold, or a run without a network.
    """
    run.check_network("export its networks one by one")
    return [_finished(run, fold)] if isinstance(fold, int) else members_of(run, fold)


def open_trained(run: Run, folds: Sequence[int], which: Which = "last") -> Trained:
    """Restore the networks of a run that are exported.

    Args:
        run: of a network, or a released model.
        folds: from `folds_meant`.
        which: checkpoint of each fold.

    Raises:
        InputError: no such checkpoint.
    """
    restored = [restore_variables(run, each, which) for each in folds]
    models = [model_name(each, step) for each, (_, step) in zip(folds, restored, strict=True)]
    members = [jax.tree.map(np.asarray, variables) for variables, _ in restored]
    return Trained(run, build_model(run.config.model), models, members, _calibration(run, folds, models))


def _finished(run: Run, fold: int) -> int:
    if fold not in (finished := finished_folds(run)):
        raise InputError(f"--fold {fold}: {run.folder} has finished {', '.join(map(str, finished))}; give one of them")
    return fold


def _calibration(run: Run, folds: Sequence[int], models: Sequence[str]) -> Calibration | None:
    """Return the run's calibration where it knows these checkpoints."""
    if not (run.folder / "calibration.json").is_file() or (folds == [ALL_ROWS] and run.calibration().all_rows is None):
        return None
    found = run.calibration()
    return found if set(models) <= set(found.known) else None


def refuse_existing(out: Path, kind: str) -> None:
    """Raise InputError where a folder holds something else than an earlier export of this kind."""
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if found and "model.safetensors" not in found:
        raise InputError(f"{out} holds something else than an export to {kind}: give another --out, or empty it")
