"""One fold: from its first or last saved step to the predictions of what it held out."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxlesion.core.config import RECIPES, RecipeSpec, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.data.batch import Batch
from jaxlesion.data.batches import Batches, steps_per_epoch
from jaxlesion.data.folds import training_rows, validation_rows
from jaxlesion.data.predictions import predictions_table
from jaxlesion.evaluation.registry import summary
from jaxlesion.inference.predictor import decode_ahead, predict_rows
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.loop import NotFinite, predict_batches, train_batches
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.resident import hold_on_device, should_hold
from jaxlesion.learning.state import TrainState, abstract_state, create_state
from jaxlesion.learning.step import make_feature_step, make_predict_step, make_train_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.weights import initial_variables
from jaxlesion.runs.store import FoldDir
from jaxlesion.runtime.compile_cache import loaded_ahead
from jaxlesion.runtime.devices import data_mesh, global_batch, local_view, replicate, replicated, shard_batch
from jaxlesion.runtime.processes import Votes, compile_before_running, from_first, gather, local_share, process_index
from jaxlesion.runtime.signals import Stopped, StopSignal
from jaxlesion.ui.console import Meter, say


class FoldTraining:
    """The training of one fold, from the first or the last saved step to the predictions of what it held out."""

    def __init__(
        self,
        config: TrainConfig,
        fold: int,
        fold_dir: FoldDir,
        lesions: pd.DataFrame,
        batches: Batches,
        weights: Path | None,
        stop: StopSignal,
    ):
        self.stop = stop
        self.config, self.fold, self.dir, self.lesions, self.weights = config, fold, fold_dir, lesions, weights
        self.batches = batches.shared(local_share(config.data.batch_size))
        self.training = training_rows(lesions, fold, config.sampling, config.data.seed)
        self.validation = validation_rows(lesions, fold, config.sampling, config.data.seed)
        self.steps = steps_per_epoch(self.training, config.data.batch_size)
        self.mesh = data_mesh(config.data.batch_size)
        self.votes = Votes(self.mesh)
        self.model = build_model(config.model)
        self.optimiser = make_optimiser(config.optim)
        recipe, on_host = RECIPES[config.augment.recipe], config.augment.backend == "albumentations"
        self.host_recipe = recipe if on_host else None
        step = make_train_step(
            self.model,
            self.optimiser,
            config.optim,
            seed=config.data.seed,
            recipe=RecipeSpec() if on_host else recipe,
            mesh=self.mesh,
        )
        sizes = config.data.batch_size, config.data.image_size, self.mesh.size
        name = f"train {config.model} {config.optim} {config.augment} {config.data.seed} {sizes}"
        self.train_step = loaded_ahead(compile_before_running(step), name)
        self.predict_step = make_predict_step(self.model)

    def run(self) -> pd.DataFrame:
        """Train to the end and return the Predictions table of the whole held-out fold, from the last checkpoint."""
        self._announce()
        decode_ahead(self.batches, np.union1d(self.training, self.validation), again=True)
        begun = self.dir.started
        with Checkpoints(self.dir.checkpoints) as checkpoints:
            state = self._start(checkpoints, begun)
            self._place(state)
            records = from_first(lambda: self._records(int(state.step)))
            while len(records) < self.config.epochs:
                state, record = self._epoch(state, len(records), checkpoints)
                records.append(record)
                if process_index() == 0:  # before the checkpoint, so that a saved epoch is never without its record
                    self.dir.write_metrics(records)
                auc = record["validation"]["roc_auc"]
                checkpoints.save(state, metric=auc if np.isfinite(auc) else -1.0)
                self._stop_if(self.votes.now(self.stop.number or 0))
            self.stop.waits = False
        rows = np.flatnonzero(self.lesions["fold"].to_numpy() == self.fold)
        title = f"fold {self.fold}: predicting the whole fold"
        prediction = predict_rows(self.predict_step, state.variables, self.batches, rows, self.mesh, title)
        name = f"fold_{self.fold}/{int(state.step)}"
        return predictions_table(self.lesions.iloc[rows], prediction, name, self.fold)

    def _records(self, step: int) -> list[dict[str, Any]]:
        """Those of the epochs that are done at `step`; of a later one there may be a record whose state was not saved.

        Raises:
            InputError: metrics.jsonl has lost some.
        """
        records = [record for record in self.dir.metrics() if record["step"] <= step]
        if len(records) != step // self.steps:
            raise InputError(
                f"{self.dir.folder / 'metrics.jsonl'} has {len(records)} of the {step // self.steps} epochs up to step "
                f"{step}, which is saved: put back what training wrote, or delete {self.dir.folder} to train it anew"
            )
        return records

    def _announce(self) -> None:
        target = self.lesions["target"].to_numpy()
        for name, rows in (("training on", self.training), ("validating on", self.validation)):
            say(f"fold {self.fold}: {name} {len(rows):,} rows, {target[rows].sum():,} malignant")
        say(f"fold {self.fold}: {self.steps} steps of {self.config.data.batch_size} an epoch; the first one compiles")

    def _place(self, state: TrainState) -> None:
        """Decide how batches come to the devices: with their images, or as rows of what the devices hold.

        Devices hold the training images where `--data.on-device` says so, and the features of training and
        validation rows where the backbone is frozen and nothing is augmented: those never change. Of several
        processes each reads its share of them, and its devices hold all.
        """
        self.put, self.held, config = shard_batch(self.mesh), "nothing", self.config
        if config.model.freeze and config.augment.recipe == "none":
            rows = np.union1d(self.training, self.validation)
            title = f"fold {self.fold}: features of the frozen backbone"
            step = make_feature_step(self.model)
            features = predict_rows(step, state.variables, self.batches, rows, self.mesh, title)
            self._hold(features, rows, "features")
            return
        size = len(self.training) * 3 * config.data.image_size**2
        if self.host_recipe is None and from_first(lambda: should_hold(config.data.on_device, size, self.mesh)):
            parts = [batch["image"][batch["mask"] > 0] for batch in self.batches.plain(self.training)]
            images = gather(np.concatenate(parts), len(self.training), config.data.batch_size)
            self._hold(images, self.training, "images")

    def _hold(self, arrays: np.ndarray, rows: np.ndarray, what: str) -> None:
        self.put_here, self.held = hold_on_device(arrays, rows, self.mesh), what
        self.put = lambda batch: global_batch(self.mesh, self.put_here(batch))

    def _training_batches(self, epoch: int, start: int) -> Iterable[Batch]:
        if self.held == "nothing":
            return self.batches.training(self.training, self.host_recipe, epoch, start)
        return self.batches.rows_only(self.training, epoch, start)

    def _validate(self, state: TrainState) -> np.ndarray:
        if self.held == "features":
            batches, variables = self.batches.unread(self.validation), local_view(self.mesh, state.variables)
            mine = predict_batches(self.predict_step, variables, batches, self.put_here)
            return gather(mine, len(self.validation), self.config.data.batch_size)
        title = f"fold {self.fold}: validating"
        return predict_rows(self.predict_step, state.variables, self.batches, self.validation, self.mesh, title)

    def _start(self, checkpoints: Checkpoints, begun: bool) -> TrainState:
        if (last := from_first(checkpoints.step)) is not None:
            say(f"fold {self.fold}: going on from step {last}")
            return checkpoints.restore(last, abstract_state(self.config, replicated(self.mesh)))
        if (done := len(self.dir.metrics())) > 1:  # a first epoch may have been killed before its state was saved
            raise InputError(
                f"{self.dir.folder} has the records of {done} epochs and no checkpoint: put the checkpoints back, "
                "or delete that folder to train the fold anew"
            )
        if done or begun:
            say(f"fold {self.fold}: nothing was saved before; from the first step")
        variables, notes = initial_variables(self.model, self.weights, self.config.data.seed)
        for note in notes:
            say(f"fold {self.fold}: {note}")
        # Leaf by leaf, hundreds of tiny programs would be compiled.
        create = jax.jit(
            create_state, static_argnames=("optimiser", "frozen", "ema"), out_shardings=replicated(self.mesh)
        )
        return create(
            jax.tree.map(np.asarray, variables),
            self.optimiser,
            frozen=self.model.frozen,
            steps_per_epoch=self.steps,
            total_steps=self.steps * self.config.epochs,
            ema=self.config.optim.ema is not None,
        )

    def _epoch(self, state: TrainState, epoch: int, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        """Finish epoch `epoch` (from 0), wherever the state stands in it, and validate."""
        start = int(state.step) - epoch * self.steps
        if start == 0:
            state = state.replace(loss_sum=replicate(self.mesh, np.zeros((), np.float32)))
        batches = self._training_batches(epoch, start)
        began = time.perf_counter()
        with Meter(f"fold {self.fold} epoch {epoch + 1}/{self.config.epochs}", self.steps, start, self._size) as meter:
            clock, told = SaveClock(self.config.checkpoint.every_minutes, self.steps - start), 0

            def due() -> bool:
                nonlocal told
                self.stop.waits = True  # from here on there is something to lose
                # Whoever is told to stop, all save, at the same step, and so with the first one's clock.
                told = self.votes(self.stop.number or int(clock() and process_index() == 0))
                # After the last step, validating comes first: its figures go into the same checkpoint.
                return told > 0 and clock.left > 0

            def save(state: TrainState) -> None:
                checkpoints.save(state)
                self._stop_if(told)

            state = self._finite(
                checkpoints,
                lambda: train_batches(self.train_step, state, batches, self.put, meter.tick, due, save),
            )
        seconds = time.perf_counter() - began
        prediction = self._validate(state)
        figures = summary(self.lesions["target"].to_numpy()[self.validation], prediction)
        loss = float(state.loss_sum) / self.steps
        if process_index() == 0:
            self.dir.add_timing(
                {
                    "epoch": epoch + 1,
                    "steps": self.steps - start,
                    "first_step_seconds": meter.first[0] - began,  # traces, and compiles or loads what was compiled
                    "train_seconds": seconds,
                    "validation_seconds": time.perf_counter() - began - seconds,
                    "images_per_second": meter.rate,
                }
            )
        say(
            f"fold {self.fold} epoch {epoch + 1}/{self.config.epochs}: loss {loss:.4f}  normalised validation: "
            f"AUC {figures['roc_auc']:.4f} pAUC {figures['pauc']:.4f} F1 {figures['malignant_f1']:.4f}  "
            f"({seconds:.0f} s, {meter.rate:.1f} img/s)"
        )
        return state, {"epoch": epoch + 1, "step": int(state.step), "loss": loss, "validation": figures}

    def _stop_if(self, told: int) -> None:
        """End if that is a signal; 1 only means that a save is due."""
        if told > 1:
            raise Stopped(told)

    @property
    def _size(self) -> int:
        return self.config.data.batch_size

    def _finite(self, checkpoints: Checkpoints, train: Callable[[], TrainState]) -> TrainState:
        try:
            return train()
        except NotFinite as e:
            size = self._size
            ids, last = ", ".join(self.lesions["isic_id"].iloc[gather(e.rows, size, size)]), checkpoints.step()
            good = (
                "no checkpoint had been saved" if last is None else f"the last good checkpoint is that of step {last}"
            )
            raise InputError(
                f"{e}; {good}; look at the images, or lower --optim.learning-rate. The batch was {ids}"
            ) from None


class SaveClock:
    """Whether a save is due after this step: `minutes` since the last one, but not at the epoch's end, saved anyway."""

    def __init__(self, minutes: float, steps: int):
        self.seconds, self.left, self.last = 60 * minutes, steps, time.monotonic()

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0 or time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True
