"""From the checkpoints of a run, or its model of all rows, to tables of predictions."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from jaxlesion.core.config import ALL_ROWS, DataConfig, fold_name
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import Meter, ignore
from jaxlesion.data.batch import Batch
from jaxlesion.data.batches import Batches
from jaxlesion.data.predictions import concatenate, predictions_table
from jaxlesion.inference.engines import EngineName, choose_engine, engine_step, named
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.loop import decode_ahead, predict_batches, predict_rows
from jaxlesion.learning.state import abstract_state
from jaxlesion.learning.step import Step, make_predict_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import Variables, digest
from jaxlesion.model.weights import read_variables
from jaxlesion.runs.released import check_digest
from jaxlesion.runs.store import Run, model_name
from jaxlesion.runtime.compile_cache import keep_compiled, vouch
from jaxlesion.runtime.devices import data_mesh, platform_of, replicated, shard_batch, use_cores

Which = Literal["last", "best"]
Members = Literal["all", "none"]


def restore_variables(run: Run, fold: int, which: Which = "last", mesh: Mesh | None = None) -> tuple[Variables, int]:
    """Restore the variables that predict, and their step: of a fold's last or best checkpoint, else of its `model`.

    Raises:
        InputError: there is neither, it does not fit the run's configuration, or the best of the model of all rows is
            wanted.
    """
    if fold == ALL_ROWS and which == "best":
        raise InputError("the model of all rows has no best checkpoint, since it held no rows out: use the last one")
    folder, where = run.fold(fold), replicated(mesh or data_mesh(1, jax.devices()[:1]))
    if not folder.has_checkpoint and folder.model.is_file():
        return jax.device_put(_read_model(run, folder.model), where), folder.model_step()
    if not folder.started:
        raise InputError(f"{folder.checkpoints} does not exist: fold {fold_name(fold)} has not been trained")
    with Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        if (step := checkpoints.step(which)) is None:
            raise InputError(f"{folder.checkpoints} holds no checkpoint")
        return checkpoints.restore(step, abstract_state(run.config, where)).variables, step


def _read_model(run: Run, path: Path) -> Variables:
    """Read variables of any float type as float32; of a released model with their digest checked."""
    check_digest(run, path)
    variables, notes = read_variables(build_model(run.config.model), path)
    if notes:
        raise InputError(f"{path}: {notes[0]}; put back what training wrote")
    return variables


def finished_folds(run: Run) -> list[int]:
    """Return the folds that can predict rows they held out.

    Raises:
        InputError: there is none.
    """
    run.check_unreleased()
    if folds := run.finished_folds():
        return folds
    if run.has_all_rows:
        raise InputError(
            f"{run.folder} has the model of all rows alone, and it held no rows out: train folds by train --fold all, "
            "or evaluate it on another --data-dir"
        )
    raise InputError(f"{run.folder} has no finished fold yet: train one first")


def members_of(run: Run, wanted: Members | None = None) -> list[int]:
    """Return the folds that predict lesions which none has seen, or [ALL_ROWS].

    Args:
        run: with something finished.
        wanted: all finished folds, or none of them but the model of all rows; None for the first that there is.

    Raises:
        InputError: there is no such model.
    """
    if run.has_all_rows and (wanted == "none" or (wanted is None and not run.finished_folds())):
        return [ALL_ROWS]
    if wanted == "none":
        raise InputError(f"{run.folder} has no finished model of all rows: train it by train --fold none")
    return finished_folds(run)


def data_config(run: Run, batch_size: int | None) -> DataConfig:
    """Return how a run reads images, with another batch size if one is given."""
    return dataclasses.replace(run.config.data, batch_size=batch_size or run.config.data.batch_size)


def predict_out_of_fold(
    run: Run,
    lesions: pd.DataFrame,
    batches: Batches,
    which: Which,
    progress: type[Meter] = Meter,
    views: int = 1,
    others: Sequence[Run] = (),
    folds: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Predict each finished fold's held-out rows by that fold; return the Predictions table.

    Args:
        run: with at least one finished fold.
        lesions: of the run, with folds.
        batches: of the lesions.
        which: checkpoint of each fold.
        progress: makes the meters.
        views: of each image, see `make_predict_step`.
        others: runs of other seeds on the same folds, whose weights are averaged with this one's.
        folds: finished ones, if not all.
    """
    network, mesh = _ready(run, batches)
    step, tables = make_predict_step(network, views), []
    for fold in folds or finished_folds(run):
        restored = [restore_variables(one, fold, which, mesh) for one in (run, *others)]
        variables, at = average([variables for variables, _ in restored]), restored[0][1]
        rows = np.flatnonzero(lesions["fold"].to_numpy() == fold)
        prediction = predict_rows(step, variables, batches, rows, mesh, f"fold {fold}: predicting", progress)
        tables.append(predictions_table(lesions.iloc[rows], prediction, model_name(fold, at) + _of_views(views), fold))
    return concatenate(tables)


def average(members: Sequence[Variables]) -> Variables:
    """Average the weights of networks that were trained from the same ones (Wortsman et al. 2022, "Model soups")."""
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *members)


class Ensemble:
    """The finished folds of a run, or its model of all rows, restored once, to predict lesions that none has seen.

    Each batch goes through all folds while it is in memory: no image is decoded twice, whatever their number.

    Args:
        run: with at least one of them finished.
        batches: of the lesions.
        which: checkpoint of each fold.
        fold: see `members_of`.
        calibrated: by what the run stored; `name` says so.
        views: of each image, see `make_predict_step`; `name` says so.
        engine: that runs the networks, see `choose_engine`; `name` says so unless it is jax.

    Raises:
        InputError: no such model or engine, or no calibration of these checkpoints.
    """

    def __init__(
        self,
        run: Run,
        batches: Batches,
        which: Which,
        *,
        fold: Members | None = None,
        calibrated: bool = False,
        views: int = 1,
        engine: EngineName = "jax",
    ):
        self.folds = members_of(run, fold)
        self.calibration = run.calibration() if calibrated else None
        self.batches, self._views = batches, views
        self._network, self._mesh = _ready(run, batches)
        self._one, self.engine = make_predict_step(self._network, views), choose_engine(engine)
        restored = [restore_variables(run, fold, which, self._mesh) for fold in self.folds]
        self.members = [variables for variables, _ in restored]
        self.models = [model_name(fold, at) for fold, (_, at) in zip(self.folds, restored, strict=True)]
        if self.calibration is not None:
            self.calibration.check(self.models)  # before the work
        alone = self.folds == [ALL_ROWS]
        mean = self.models[0] if alone else f"mean of {' '.join(self.models)}"
        self.name = mean + _of_views(views) + named(self.engine) + (", calibrated" if calibrated else "")
        self.title = "predicting by the model of all rows" if alone else f"predicting by {len(self.folds)} folds"

    def digest(self) -> str:
        """Return the SHA-256 of all variables: checkpoints of one name may be those of another run."""
        return digest(self.members)

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
        if self.engine != "jax":
            return predict_batches(self._foreign, self.members, batches, dict, after)
        each = predict_batches(self._step, self.members, batches, shard_batch(self._mesh), after)
        vouch()
        return each

    @functools.cached_property
    def _foreign(self) -> Step:
        """The step of another engine, which has the weights in it."""
        run = engine_step(self.engine, self._network, self.members, self.batches.config.image_size, self._views)
        return lambda members, batch: run(batch["image"])

    def _step(self, members: list[Variables], batch: Batch) -> jax.Array:
        return jnp.stack([self._one(variables, batch) for variables in members], -1)


class EnsemblePredictions(NamedTuple):
    """Predictions of lesions that no model has seen."""

    table: pd.DataFrame
    """Predictions table of the mean of all folds, or of the model of all rows."""
    each: np.ndarray
    """Uncorrected probability [n, folds] of each fold."""
    models: list[str]
    """Names of the folds' checkpoints."""


def predict_ensemble(
    run: Run, lesions: pd.DataFrame, batches: Batches, which: Which, progress: type[Meter] = Meter, views: int = 1
) -> EnsemblePredictions:
    """Predict lesions that no model has seen, by each fold and by the mean of all. See `Ensemble`."""
    ensemble, rows = Ensemble(run, batches, which, views=views), np.arange(len(lesions))
    decode_ahead(batches, rows, again=False, progress=progress)
    with progress(ensemble.title, len(rows)) as meter:
        each = ensemble.predict_each(rows, meter.advance)
    table = predictions_table(lesions, each.mean(1), ensemble.name)
    return EnsemblePredictions(table, each, ensemble.models)


def _of_views(views: int) -> str:
    return f" x {views} views" if views > 1 else ""


def _ready(run: Run, batches: Batches) -> tuple[nn.Module, Mesh]:
    """Return the network of a run and the devices that it runs on, which are counted before JAX is first used."""
    keep_compiled()
    use_cores(batches.config.batch_size)
    mesh = data_mesh(batches.config.batch_size)
    return build_model(run.config.model, platform_of(mesh)), mesh
