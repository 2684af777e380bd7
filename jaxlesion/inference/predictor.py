"""From the checkpoints of a run to tables of predictions."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from jaxlesion.core.config import DataConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import Meter, ignore
from jaxlesion.data.batch import Batch
from jaxlesion.data.batches import Batches
from jaxlesion.data.predictions import concatenate, predictions_table
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.loop import decode_ahead, predict_batches, predict_rows
from jaxlesion.learning.state import abstract_state
from jaxlesion.learning.step import Step, make_predict_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import Variables
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled, vouch
from jaxlesion.runtime.devices import data_mesh, replicated, shard_batch, use_cores

Which = Literal["last", "best"]


def restore_variables(run: Run, fold: int, which: Which = "last", mesh: Mesh | None = None) -> tuple[Variables, int]:
    """Restore the variables that predict from a fold's last or best checkpoint; return them and its step.

    Raises:
        InputError: there is no such checkpoint, or it does not fit the run's configuration.
    """
    folder = run.fold(fold).checkpoints
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: fold {fold} has not been trained")
    with Checkpoints(folder, read_only=True) as checkpoints:
        if (step := checkpoints.step(which)) is None:
            raise InputError(f"{folder} holds no checkpoint")
        where = replicated(mesh or data_mesh(1, jax.devices()[:1]))
        return checkpoints.restore(step, abstract_state(run.config, where)).variables, step


def finished_folds(run: Run) -> list[int]:
    """Return the folds that can predict.

    Raises:
        InputError: there is none.
    """
    if not (folds := run.finished_folds()):
        raise InputError(f"{run.folder} has no finished fold yet: train one first")
    return folds


def data_config(run: Run, batch_size: int | None) -> DataConfig:
    """Return how a run reads images, with another batch size if one is given."""
    return dataclasses.replace(run.config.data, batch_size=batch_size or run.config.data.batch_size)


def predict_out_of_fold(
    run: Run, lesions: pd.DataFrame, batches: Batches, which: Which, progress: type[Meter] = Meter, views: int = 1
) -> pd.DataFrame:
    """Predict each finished fold's held-out rows by that fold; return the Predictions table."""
    step, mesh = _ready(run, batches, views)
    tables = []
    for fold in finished_folds(run):
        variables, at = restore_variables(run, fold, which, mesh)
        rows = np.flatnonzero(lesions["fold"].to_numpy() == fold)
        prediction = predict_rows(step, variables, batches, rows, mesh, f"fold {fold}: predicting", progress)
        tables.append(predictions_table(lesions.iloc[rows], prediction, f"fold_{fold}/{at}{_of_views(views)}", fold))
    return concatenate(tables)


class Ensemble:
    """The finished folds of a run, restored once, to predict lesions that none of them has seen.

    Each batch goes through all folds while it is in memory: no image is decoded twice, whatever their number.

    Args:
        run: with at least one finished fold.
        batches: of the lesions.
        which: checkpoint of each fold.
        calibrated: by what the run stored; `name` says so.
        views: of each image, see `make_predict_step`; `name` says so.

    Raises:
        InputError: no finished fold, or no calibration of these checkpoints.
    """

    def __init__(self, run: Run, batches: Batches, which: Which, *, calibrated: bool = False, views: int = 1):
        folds = finished_folds(run)
        self.calibration = run.calibration() if calibrated else None
        self.batches = batches
        self._one, self._mesh = _ready(run, batches, views)
        restored = [restore_variables(run, fold, which, self._mesh) for fold in folds]
        self.members = [variables for variables, _ in restored]
        self.models = [f"fold_{fold}/{at}" for fold, (_, at) in zip(folds, restored, strict=True)]
        if self.calibration is not None:
            self.calibration.check(self.models)  # before the work
        self.name = f"mean of {' '.join(self.models)}{_of_views(views)}" + (", calibrated" if calibrated else "")
        self.title = f"predicting by {len(folds)} folds"

    def digest(self) -> str:
        """SHA-256 of all variables: checkpoints of one name may be those of another run."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.members):
            digest.update(np.ascontiguousarray(leaf))
        return digest.hexdigest()

    def predict(
        self, lesions: pd.DataFrame, rows: Sequence[int], after: Callable[[int], None] = ignore
    ) -> pd.DataFrame:
        """Average the folds' probabilities; return the Predictions table of some rows.

        Args:
            lesions: n rows.
            rows: [n] their positions in the table that the batches are of.
            after: called with the number of rows of each batch.
        """
        each = self.predict_each(rows, after)
        calibration = self.calibration
        prediction = each.mean(1) if calibration is None else calibration.new_rows(each, self.models)
        return predictions_table(lesions, prediction, self.name)

    def predict_each(self, rows: Sequence[int], after: Callable[[int], None] = ignore) -> np.ndarray:
        """Return each fold's uncorrected probability [n, folds]; arguments as for `predict`."""
        batches = self.batches.plain(np.asarray(rows))
        each = predict_batches(self._step, self.members, batches, shard_batch(self._mesh), after)
        vouch()
        return each

    def _step(self, members: list[Variables], batch: Batch) -> jax.Array:
        return jnp.stack([self._one(variables, batch) for variables in members], -1)


class EnsemblePredictions(NamedTuple):
    """Predictions of lesions that no fold has seen."""

    table: pd.DataFrame
    """Predictions table of the mean of all folds."""
    each: np.ndarray
    """Uncorrected probability [n, folds] of each fold."""
    models: list[str]
    """Names of the folds' checkpoints."""


def predict_ensemble(
    run: Run, lesions: pd.DataFrame, batches: Batches, which: Which, progress: type[Meter] = Meter, views: int = 1
) -> EnsemblePredictions:
    """Predict lesions that no fold has seen by each fold and by the mean of all. See `Ensemble`."""
    ensemble, rows = Ensemble(run, batches, which, views=views), np.arange(len(lesions))
    decode_ahead(batches, rows, again=False, progress=progress)
    with progress(ensemble.title, len(rows)) as meter:
        each = ensemble.predict_each(rows, meter.advance)
    return EnsemblePredictions(predictions_table(lesions, each.mean(1), ensemble.name), each, ensemble.models)


def _of_views(views: int) -> str:
    return f" x {views} views" if views > 1 else ""


def _ready(run: Run, batches: Batches, views: int) -> tuple[Step, Mesh]:
    keep_compiled()
    use_cores(batches.config.batch_size)
    return make_predict_step(build_model(run.config.model), views), data_mesh(batches.config.batch_size)
