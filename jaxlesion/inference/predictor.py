"""From the checkpoints of a run to probabilities: what training, evaluation and prediction share."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from jaxlesion.core.config import DataConfig
from jaxlesion.core.errors import InputError
from jaxlesion.data.batch import Batch
from jaxlesion.data.batches import Batches
from jaxlesion.data.predictions import concatenate, predictions_table
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.loop import predict_batches
from jaxlesion.learning.state import abstract_state
from jaxlesion.learning.step import Step, make_predict_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import Variables
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import data_mesh, local_mesh, local_view, replicated, shard_batch, use_cores
from jaxlesion.runtime.processes import gather, process_count
from jaxlesion.ui.console import Meter

Which = Literal["last", "best"]


def restore_variables(run: Run, fold: int, which: Which = "last", mesh: Mesh | None = None) -> tuple[Variables, int]:
    """The variables that predict, from a fold's last or best checkpoint, and its step.

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


def decode_ahead(batches: Batches, rows: np.ndarray, *, again: bool) -> None:
    """Fill the cache, where there is one and it pays, with a progress bar; `again` as in `Batches.to_cache`.

    Several processes read what is in it, and decode the rest when it is wanted: none needs all images, and a mapped
    file that several hosts write to at once is not safe.
    """
    if process_count() > 1:
        return
    if ids := batches.to_cache(rows, again=again):
        with Meter("decoding", len(ids)) as meter:
            batches.cache.fill(ids, batches.decoded, batches.config.workers, lambda n: meter.tick(steps=n))


def predict_rows(
    step: Step,
    variables: Variables | list[Variables],
    batches: Batches,
    rows: np.ndarray,
    mesh: Mesh,
    title: str,
) -> np.ndarray:
    """What `step` gives for every row, such as its probability [n], with a progress bar.

    Of several processes each predicts its share of every batch on its own devices, without a word to the others,
    and all get the whole.
    """
    decode_ahead(batches, rows, again=False)
    variables, put = local_view(mesh, variables), shard_batch(local_mesh(mesh))
    with Meter(title, len(rows)) as meter:
        mine = predict_batches(
            step, variables, batches.plain(rows), put, lambda n: meter.tick(steps=n * process_count())
        )
    return gather(mine, len(rows), batches.config.batch_size)


def finished_folds(run: Run) -> list[int]:
    """The folds that can predict.

    Raises:
        InputError: there is none.
    """
    if not (folds := run.finished_folds()):
        raise InputError(f"{run.folder} has no finished fold yet: train one first")
    return folds


def data_config(run: Run, batch_size: int | None) -> DataConfig:
    """How a run reads images, with another batch size if one is given."""
    return dataclasses.replace(run.config.data, batch_size=batch_size or run.config.data.batch_size)


def predict_out_of_fold(run: Run, lesions: pd.DataFrame, batches: Batches, which: Which) -> pd.DataFrame:
    """Each finished fold's held-out rows, predicted by that fold: a Predictions table."""
    step, mesh = _ready(run, batches)
    tables = []
    for fold in finished_folds(run):
        variables, at = restore_variables(run, fold, which, mesh)
        rows = np.flatnonzero(lesions["fold"].to_numpy() == fold)
        prediction = predict_rows(step, variables, batches, rows, mesh, f"fold {fold}: predicting")
        tables.append(predictions_table(lesions.iloc[rows], prediction, f"fold_{fold}/{at}", fold))
    return concatenate(tables)


class Ensemble:
    """The finished folds of a run, restored once, to predict lesions that none of them has seen.

    Each batch goes through all folds while it is in memory: no image is decoded twice, whatever their number.

    Args:
        run: with at least one finished fold.
        batches: of the lesions.
        which: checkpoint of each fold.
        calibrated: by what the run stored; `name` says so.

    Raises:
        InputError: no finished fold, or no calibration of these checkpoints.
    """

    def __init__(self, run: Run, batches: Batches, which: Which, *, calibrated: bool = False):
        folds = finished_folds(run)
        self.calibration = run.calibration() if calibrated else None
        self.batches = batches
        self._one, self._mesh = _ready(run, batches)
        restored = [restore_variables(run, fold, which, self._mesh) for fold in folds]
        self.members = [variables for variables, _ in restored]
        self.models = [f"fold_{fold}/{at}" for fold, (_, at) in zip(folds, restored, strict=True)]
        if self.calibration is not None:
            self.calibration.check(self.models)  # before the work
        self.name = f"mean of {' '.join(self.models)}" + (", calibrated" if calibrated else "")
        self.title = f"predicting by {len(folds)} folds"

    def digest(self) -> str:
        """SHA-256 of all variables: checkpoints of one name may be those of another run."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.members):
            digest.update(np.ascontiguousarray(leaf))
        return digest.hexdigest()

    def predict(self, lesions: pd.DataFrame, rows: Sequence[int], after: Callable[[int], None]) -> pd.DataFrame:
        """The mean of the folds' probabilities: the Predictions table of some rows.

        Args:
            lesions: n rows.
            rows: [n] their positions in the table that the batches are of.
            after: called with the number of rows of each batch.
        """
        batches = self.batches.plain(np.asarray(rows))
        each = predict_batches(self._step, self.members, batches, shard_batch(self._mesh), after)
        calibration = self.calibration
        prediction = each.mean(1) if calibration is None else calibration.new_rows(each, self.models)
        return predictions_table(lesions, prediction, self.name)

    def _step(self, members: list[Variables], batch: Batch) -> jax.Array:
        return jnp.stack([self._one(variables, batch) for variables in members], -1)


def predict_ensemble(run: Run, lesions: pd.DataFrame, batches: Batches, which: Which) -> pd.DataFrame:
    """The Predictions table of lesions that no fold has seen, by the mean of all: see `Ensemble`."""
    ensemble, rows = Ensemble(run, batches, which), np.arange(len(lesions))
    decode_ahead(batches, rows, again=False)
    with Meter(ensemble.title, len(rows)) as meter:
        return ensemble.predict(lesions, rows, lambda n: meter.tick(steps=n))


def _ready(run: Run, batches: Batches) -> tuple[Step, Mesh]:
    keep_compiled()
    use_cores(batches.config.batch_size)
    return make_predict_step(build_model(run.config.model)), data_mesh(batches.config.batch_size)
