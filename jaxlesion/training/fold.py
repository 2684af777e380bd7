"""Train one fold of a run, or its model of all rows: rows, records, and out-of-fold predictions or weights."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxlesion.core.config import ALL_ROWS, TrainConfig, fold_name
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import Hooks, ignore
from jaxlesion.data.batches import Batches, steps_per_epoch
from jaxlesion.data.folds import group_numbers, group_weights, training_pool, training_rows, validation_rows
from jaxlesion.data.predictions import predictions_table, write_predictions
from jaxlesion.evaluation.registry import summary
from jaxlesion.learning.augment import augment
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.trainer import Epoch, FoldRows, train_fold
from jaxlesion.model.port import to_timm, write_safetensors
from jaxlesion.runs.fold_dir import STEP, FoldDir
from jaxlesion.runs.store import Run, model_name
from jaxlesion.runtime.processes import from_first, process_index
from jaxlesion.runtime.signals import StopSignal
from jaxlesion.training.begin import OpenRun


@dataclass
class Journal:
    """Keep the records of a fold's epochs in its folder, and say a line for each.

    Args:
        fold: its name.
        folder: of the fold.
        begun: whether it was begun before.
        epochs: how many there will be.
        target: [n] of the validation rows.
        say: called with each line.
        observe: called with the event `epoch`, see `Hooks`.
    """

    fold: str
    folder: FoldDir
    begun: bool
    epochs: int
    target: np.ndarray
    say: Callable[[str], None]
    observe: Callable[..., None] = ignore
    records: list[dict[str, Any]] = field(default_factory=list)

    def resume(self, step: int | None, steps_per_epoch: int) -> None:
        """Read the records up to a saved step; a later one may lack its checkpoint.

        Raises:
            InputError: records or checkpoints have been lost.
        """
        recorded = self.folder.metrics()
        if step is not None:
            self.say(f"fold {self.fold}: resuming from step {step}")
            self.records = from_first(lambda: self.folder.records(step, steps_per_epoch))
        elif len(recorded) > 1:  # a first epoch may have been killed before its state was saved
            raise InputError(
                f"{self.folder.folder} has the records of {len(recorded)} epochs and no checkpoint: put the "
                "checkpoints back, or delete that folder to train the fold again"
            )
        elif recorded or self.begun:
            self.say(f"fold {self.fold}: nothing was saved before; from the first step")

    def end_epoch(self, epoch: Epoch) -> float | None:
        """Record an epoch; return its ROC AUC on the validation rows: nan if they are of one class, None if none."""
        metrics = summary(self.target, epoch.validation) if len(self.target) else None
        record = {"epoch": epoch.number, "step": epoch.step, "loss": epoch.loss}
        self.records.append(record | ({} if metrics is None else {"validation": metrics}))
        self.observe("epoch", record=self.records[-1], times=epoch.times)
        if process_index() == 0:
            self.folder.add_timing({"epoch": epoch.number, **epoch.times})
            self.folder.write_metrics(self.records)
        validation = (
            ""
            if metrics is None
            else (
                f"  normalised validation: AUC {metrics['roc_auc']:.4f} pAUC {metrics['pauc']:.4f} "
                f"F1 {metrics['malignant_f1']:.4f}"
            )
        )
        self.say(
            f"fold {self.fold} epoch {epoch.number}/{self.epochs}: loss {epoch.loss:.4f}{validation}  "
            f"({epoch.times['train_seconds']:.0f} s, {epoch.times['images_per_second']:.1f} img/s)"
        )
        return None if metrics is None else metrics["roc_auc"]


def train_fold_of(opened: OpenRun, config: TrainConfig, fold: int, hooks: Hooks) -> pd.DataFrame | None:
    """Train a fold of a run to its end; write and return the Predictions table of the whole held-out fold.

    Of the model of all rows write the variables that predict, and return None.

    Raises:
        InputError: another process trains it, or see `train_fold`.
        Stopped: a signal came.
    """
    run, lesions = opened.run, opened.lesions
    folder, target = run.fold(fold), lesions["target"].to_numpy()
    sampled = (lesions, fold, config.sampling, config.data.seed)
    held_out = np.flatnonzero(lesions["fold"].to_numpy() == fold)
    rows = FoldRows(
        fold,
        training_rows(*sampled),
        validation_rows(*sampled),
        held_out,
        training_pool(*sampled),
        lambda epoch: training_rows(*sampled, epoch),
    )
    name = fold_name(fold)
    for what, some in (("training on", rows.training), ("validating on", rows.validation)):
        if len(some):
            hooks.say(f"fold {name}: {what} {len(some):,} rows, {target[some].sum():,} malignant")
    weight = group_weights(lesions, rows.pool, config.sampling.weight_by)
    groups = group_numbers(lesions, config.model.auxiliary)
    batches = opened.batches.teaching(config.sampling.even, weight, groups)
    size = config.data.batch_size
    steps = steps_per_epoch(rows.training, size)
    hooks.say(f"fold {name}: {steps:,} steps an epoch, {size} rows each; the first step compiles")
    with _locked(folder), StopSignal() as stop:
        journal = Journal(
            name, folder, folder.started, config.epochs, target[rows.validation], hooks.say, hooks.observe
        )
        images, total = lambda: first_images(config, rows, batches), steps * config.epochs
        hooks.observe("fold", folder=folder.folder, images=images, steps=total)
        with Checkpoints(folder.checkpoints) as checkpoints:
            trained = train_fold(config, rows, batches, opened.weights, checkpoints, journal, stop, hooks)
        table = None
        if fold != ALL_ROWS:
            name = model_name(fold, trained.step)
            table = predictions_table(lesions.iloc[held_out], trained.prediction, name, fold)
        if process_index() == 0:
            if table is None:
                write_safetensors(folder.model, to_timm(trained.variables), {STEP: str(trained.step)})
            else:
                write_predictions(folder.oof, table)
            collect(run)
    hooks.observe("finished", table=table)
    return table


def first_images(config: TrainConfig, rows: FoldRows, batches: Batches) -> np.ndarray:
    """Return the first batch of training images as the network gets them, uint8 [b, h, w, 3]."""
    spec, on_host = config.augment.spec, config.augment.backend == "albumentations"
    batch = next(batches.training(rows.of_epoch(0), spec if on_host else None, 0))
    if on_host:
        return batch["image"]
    step = jax.jit(augment, static_argnames="spec")
    return np.asarray(step(batch["image"], spec=spec, seed=config.data.seed, epoch=0, rows=batch["row"]))


def collect(run: Run) -> None:
    """Bring the run's oof.csv and calibration.json up to date, where a fold is finished."""
    if run.finished_folds():
        run.collect_oof()


@contextmanager
def _locked(folder: FoldDir) -> Iterator[None]:
    """Hold the lock of a fold in the first process, for all."""
    with ExitStack() as stack:
        from_first(lambda: stack.enter_context(folder.lock()) and None)
        yield
