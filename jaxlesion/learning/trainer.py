"""Train one fold: from its first or last saved step to the probabilities of the rows that it held out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxlesion.core.config import TrainConfig, fold_name
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import SILENT, Hooks, Meter
from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.feed import Feed, feed_batches, feed_rows, should_hold
from jaxlesion.learning.loop import NotFinite, StepHooks, decode_ahead, predict_batches, predict_rows, train_batches
from jaxlesion.learning.mix import Mixing
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.saver import SaveClock, Saver, stop_if
from jaxlesion.learning.state import TrainState, abstract_state, create_state
from jaxlesion.learning.step import make_feature_step, make_predict_step, make_train_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import Variables
from jaxlesion.model.weights import initial_variables
from jaxlesion.runtime.compile_cache import vouching
from jaxlesion.runtime.devices import data_mesh, local_view, platform_of, replicate, replicated
from jaxlesion.runtime.processes import Votes, compile_before_running, from_first, gather, local_share
from jaxlesion.runtime.signals import StopSignal


@dataclass(frozen=True)
class FoldRows:
    """The rows of one fold, as positions in the table of lesions.

    Args:
        fold: its number; ALL_ROWS for the model of all rows, whose validation and held_out are empty.
        training: [m] rows that the first epoch is trained on.
        validation: rows that are predicted after each epoch.
        held_out: rows that are predicted at the end.
        pool: all rows that some epoch is trained on.
        of_epoch: gives the rows [m] of an epoch, from 0.
    """

    fold: int
    training: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray
    pool: np.ndarray
    of_epoch: Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Epoch:
    """A finished epoch: its number from 1, step, mean loss, validation probabilities [n], and times."""

    number: int
    step: int
    loss: float
    validation: np.ndarray
    times: dict[str, float]


class Trained(NamedTuple):
    """A trained fold: probabilities [n] of its held-out rows, the last step, and the variables that predict."""

    prediction: np.ndarray
    step: int
    variables: Variables


class Journal(Protocol):
    """Keeper of a fold's records."""

    def resume(self, step: int | None, steps_per_epoch: int) -> None:
        """Take up the records of the epochs up to a saved step, None where nothing was saved."""

    def end_epoch(self, epoch: Epoch) -> float | None:
        """Record an epoch before its state is saved, and return its score, higher is better; None: not scored."""


@dataclass(frozen=True)
class Training:
    """The constants of one fold's training.

    Args:
        config: of the run.
        rows: of the fold.
        batches: `data.batches.Batches` of the table of lesions, of this process's share.
        hooks: see `Hooks`.
        stop: whether a signal came.
    """

    config: TrainConfig
    rows: FoldRows
    batches: Any
    hooks: Hooks
    stop: StopSignal

    @cached_property
    def batch_size(self) -> int:
        return self.config.data.batch_size

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch: whole batches, never none."""
        return len(self.rows.training) // self.batch_size

    @cached_property
    def mesh(self) -> Mesh:
        return data_mesh(self.batch_size)

    @cached_property
    def votes(self) -> Votes:
        return Votes(self.mesh)

    @cached_property
    def model(self) -> nn.Module:
        return build_model(self.config.model, platform_of(self.mesh))

    @cached_property
    def host_recipe(self) -> RecipeSpec | None:
        """The recipe that Albumentations applies on the host; None where the step augments."""
        augment = self.config.augment
        return augment.spec if augment.backend == "albumentations" else None

    @cached_property
    def train_step(self) -> Any:
        config = self.config
        recipe = config.augment.spec if self.host_recipe is None else RecipeSpec()
        optimiser = make_optimiser(config.optim)
        mixing = Mixing(config.augment.mixup, config.augment.cutmix)
        step = make_train_step(self.model, optimiser, config.optim, recipe=recipe, mesh=self.mesh, mixing=mixing)
        step, seed = vouching(compile_before_running(step)), np.uint32(config.data.seed)
        return lambda state, batch: step(state, batch, seed)

    @cached_property
    def predict_step(self) -> Any:
        return make_predict_step(self.model)

    def title(self, what: str) -> str:
        return f"fold {fold_name(self.rows.fold)}: {what}"


def train_fold(
    config: TrainConfig,
    rows: FoldRows,
    batches: Any,
    weights: Path | None,
    checkpoints: Checkpoints,
    journal: Journal,
    stop: StopSignal,
    hooks: Hooks = SILENT,
) -> Trained:
    """Train a fold to its end, from its last checkpoint if there is one.

    Args:
        config: of the run.
        rows: of the fold.
        batches: `data.batches.Batches` of the table of lesions.
        weights: a safetensors file of the first weights; None for random ones.
        checkpoints: of the fold.
        journal: keeps the records of its epochs.
        stop: whether a signal came.
        hooks: see `Hooks`; events are decoding, step, saved, validating and predicting.

    Returns:
        The last state's variables, on this process's devices, with its step and the held-out rows' probabilities.

    Raises:
        InputError: weights or checkpoints that do not fit, or a loss that is not finite.
        Stopped: a signal came; the state of the last step is saved.
    """
    training = Training(config, rows, batches.shared(local_share(config.data.batch_size)), hooks, stop)
    hooks.observe("decoding", fold=rows.fold)
    wanted = np.union1d(rows.training, rows.validation)  # of redrawn rows the first epoch's, where not all fit
    decode_ahead(training.batches, wanted, again=True, progress=hooks.progress)
    state = _first_state(training, checkpoints, journal, weights)
    feed = choose_feed(training, state)
    while (done := int(state.step) // training.steps) < config.epochs:
        state, epoch = _run_epoch(training, feed, state, done, checkpoints)
        score = journal.end_epoch(epoch)  # before the checkpoint, so that a saved epoch is never without its record
        checkpoints.save(state, metric=score if score is None or np.isfinite(score) else -1.0)
        hooks.observe("saved", step=epoch.step)
        stop_if(training.votes.now(stop.number or 0))
    stop.waits = False
    checkpoints.wait()
    hooks.observe("predicting")
    title = training.title("predicting the whole fold")
    prediction = _predict(training, state, rows.held_out, title)
    return Trained(prediction, int(state.step), local_view(training.mesh, state.variables))


def _first_state(training: Training, checkpoints: Checkpoints, journal: Journal, weights: Path | None) -> TrainState:
    """Restore the last checkpoint, or make the state before the first step."""
    config, mesh = training.config, training.mesh
    last = from_first(checkpoints.step)
    journal.resume(last, training.steps)
    if last is not None:
        return checkpoints.restore(last, abstract_state(config, replicated(mesh)))
    variables, notes = initial_variables(training.model, weights, config.data.seed)
    for note in notes:
        training.hooks.say(training.title(note))
    # Leaf by leaf, hundreds of tiny programs would be compiled.
    static = ("optimiser", "frozen", "ema")
    create = jax.jit(create_state, static_argnames=static, out_shardings=replicated(mesh))
    return create(
        jax.tree.map(np.asarray, variables),
        make_optimiser(config.optim),
        frozen=training.model.frozen,
        steps_per_epoch=training.steps,
        total_steps=training.steps * config.epochs,
        ema=config.optim.ema is not None,
    )


def choose_feed(training: Training, state: TrainState) -> Feed:
    """Put on the devices what `--data.on-device` asks for, and the features of a frozen backbone that never change.

    Of several processes each reads its share of the images, and its devices hold all.
    """
    config, mesh, rows = training.config, training.mesh, training.rows
    if config.model.freeze and config.augment.spec == RecipeSpec():
        both = np.union1d(rows.pool, rows.validation)
        title = training.title("features of the frozen backbone")
        features = _predict(training, state, both, title, make_feature_step(training.model))
        return feed_rows(features, both, mesh, "features")
    size = len(rows.pool) * 3 * config.data.image_size**2
    if training.host_recipe is None and from_first(lambda: should_hold(config.data.on_device, size, mesh)):
        parts = [batch["image"][batch["mask"] > 0] for batch in training.batches.plain(rows.pool)]
        images = gather(np.concatenate(parts), len(rows.pool), training.batch_size)
        return feed_rows(images, rows.pool, mesh, "images")
    return feed_batches(mesh)


def _run_epoch(
    training: Training, feed: Feed, state: TrainState, done: int, checkpoints: Checkpoints
) -> tuple[TrainState, Epoch]:
    """Finish the epoch after `done` epochs, wherever the state stands in it, and validate."""
    config, rows, steps, hooks = training.config, training.rows, training.steps, training.hooks
    start = int(state.step) - done * steps
    if start == 0:
        state = state.replace(loss_sum=replicate(training.mesh, np.zeros((), np.float32)))
    if feed.held == "nothing":
        batches = training.batches.training(rows.of_epoch(done), training.host_recipe, done, start)
    else:
        batches = training.batches.rows_only(rows.of_epoch(done), done, start)
    clock = SaveClock(config.checkpoint.every_minutes, steps - start)
    saver = Saver(checkpoints, training.stop, training.votes, clock, hooks.observe)
    began = time.perf_counter()
    title = f"fold {fold_name(rows.fold)} epoch {done + 1}/{config.epochs}"
    with hooks.progress(title, steps, start, training.batch_size) as meter:

        def on_loss(loss: float) -> None:
            hooks.observe("loss", loss=loss)
            meter.tick(loss)

        try:
            around = StepHooks(on_loss, saver.due, saver.save)
            state = train_batches(training.train_step, state, batches, feed.put, around)
        except NotFinite as e:
            raise _not_finite(training, e, checkpoints) from None
    trained = time.perf_counter()
    hooks.observe("validating")
    validation = _validate(training, feed, state)
    times = _times(meter, steps - start, began, trained)
    return state, Epoch(done + 1, int(state.step), float(state.loss_sum) / steps, validation, times)


def _times(meter: Meter, steps: int, began: float, trained: float) -> dict[str, float]:
    """Return the times of an epoch, in seconds; the first step traces, and compiles or loads the program."""
    return {
        "steps": steps,
        "first_step_seconds": meter.first[0] - began,
        "train_seconds": trained - began,
        "validation_seconds": time.perf_counter() - trained,
        "images_per_second": meter.rate,
    }


def _validate(training: Training, feed: Feed, state: TrainState) -> np.ndarray:
    rows = training.rows.validation
    if feed.held != "features":
        return _predict(training, state, rows, training.title("validating"))
    variables = local_view(training.mesh, state.variables)
    share = predict_batches(training.predict_step, variables, training.batches.unread(rows), feed.put_local)
    return gather(share, len(rows), training.batch_size)


def _predict(training: Training, state: TrainState, rows: np.ndarray, title: str, step: Any = None) -> np.ndarray:
    if not len(rows):
        return np.zeros(0, np.float32)
    step, progress = step or training.predict_step, training.hooks.progress
    return predict_rows(step, state.variables, training.batches, rows, training.mesh, title, progress)


def _not_finite(training: Training, error: NotFinite, checkpoints: Checkpoints) -> InputError:
    size = training.batch_size
    ids = ", ".join(training.batches.ids[row] for row in gather(error.rows, size, size))
    last = checkpoints.step()
    good = "no checkpoint had been saved" if last is None else f"the last good checkpoint is that of step {last}"
    return InputError(
        f"{error}; {good}; look at the images, or begin another --run-dir with a lower --optim.learning-rate. "
        f"The batch was {ids}"
    )
