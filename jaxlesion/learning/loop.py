"""The loops around the steps: through an epoch, and through every row once."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxlesion.core.hooks import Meter, ignore
from jaxlesion.data.batch import Batch
from jaxlesion.learning.state import TrainState
from jaxlesion.model.variables import Variables
from jaxlesion.runtime.compile_cache import vouch
from jaxlesion.runtime.devices import local_mesh, local_view, shard_batch
from jaxlesion.runtime.processes import gather, process_count


class NotFinite(RuntimeError):
    """The loss or the gradient is NaN or infinite at `step`, on the rows `rows` of the table."""

    def __init__(self, step: int, rows: np.ndarray):
        super().__init__(f"loss or gradient is not finite at step {step}")
        self.step, self.rows = step, rows


class StepHooks(NamedTuple):
    """Functions that `train_batches` calls around its steps; the defaults do nothing.

    Args:
        loss: called with the mean loss of every batch, one step late.
        due: called with each step's number and rows when it is under way; returns whether to save now.
        save: called with a state that is known to be finite.
    """

    loss: Callable[[float], None] = ignore
    due: Callable[[int, np.ndarray], bool] = lambda step, rows: False
    save: Callable[[TrainState], None] = ignore


NO_HOOKS = StepHooks()


def train_batches(
    step: Callable,
    state: TrainState,
    batches: Iterable[Batch],
    put: Callable[[Batch], Batch],
    hooks: StepHooks = NO_HOOKS,
) -> TrainState:
    """Run `step` over the batches and return the state after the last one.

    Args:
        step: from `make_train_step`.
        state: donated.
        batches: of host arrays.
        put: brings a batch to the devices.
        hooks: called around the steps.

    Raises:
        NotFinite: at the first step whose loss or gradient is not finite.
    """
    done, waiting = int(state.step), None
    for batch in batches:
        state, metrics = step(state, put(batch))
        if waiting is not None:  # the step before this one: reading it never leaves the device without work
            hooks.loss(_finite_loss(*waiting))
        done += 1
        waiting = done, metrics, batch["row"][batch["mask"] > 0]
        if hooks.due(done, waiting[2]):
            hooks.loss(_finite_loss(*waiting))
            waiting = None
            hooks.save(state)
    if waiting is not None:
        hooks.loss(_finite_loss(*waiting))
    return state


def _finite_loss(step: int, metrics: dict[str, Any], rows: np.ndarray) -> float:
    loss, norm = (float(metrics[name]) for name in ("loss", "grad_norm"))
    if not (np.isfinite(loss) and np.isfinite(norm)):
        raise NotFinite(step, rows)
    return loss


def predict_batches(
    step: Callable,
    variables: Variables,
    batches: Iterable[Batch],
    put: Callable[[Batch], Batch],
    after: Callable[[int], None] = ignore,
) -> np.ndarray:
    """Return the output of `step` for every unmasked row, float32 [rows, ...], in the order of the batches.

    Args:
        step: from `make_predict_step`, or any function of (variables, batch) to [b, ...].
        variables: on the mesh.
        batches: of host arrays.
        put: brings a batch to the devices.
        after: called with the number of rows of each batch as soon as it is on its way.
    """
    parts, waiting = [], None
    for batch in batches:
        running = step(variables, put(batch)), batch["mask"] > 0
        if waiting is not None:  # one batch behind, so that the device always has the next
            parts.append(np.asarray(waiting[0])[waiting[1]])
        waiting = running
        after(int(running[1].sum()))
    if waiting is not None:
        parts.append(np.asarray(waiting[0])[waiting[1]])
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def predict_rows(
    step: Callable,
    variables: Variables | list[Variables],
    batches: Any,
    rows: np.ndarray,
    mesh: Mesh,
    title: str,
    progress: type[Meter] = Meter,
) -> np.ndarray:
    """Return the output of `step` for every row, such as its probability [n].

    Each of several processes predicts its share of every batch on its own devices, and all get the whole.

    Args:
        step: as in `predict_batches`.
        variables: on the mesh.
        batches: `data.batches.Batches` of the rows' table.
        rows: [n] positions in that table.
        mesh: that a batch is split over.
        title: of the work, for `progress`.
        progress: makes the meter.
    """
    decode_ahead(batches, rows, again=False, progress=progress)
    variables, put = local_view(mesh, variables), shard_batch(local_mesh(mesh))
    with progress(title, len(rows)) as meter:
        share = predict_batches(
            step, variables, batches.plain(rows), put, lambda n: meter.tick(steps=n * process_count())
        )
    vouch()
    return gather(share, len(rows), batches.config.batch_size)


def decode_ahead(batches: Any, rows: np.ndarray, *, again: bool, progress: type[Meter] = Meter) -> None:
    """Fill the cache of decoded images, where there is one and it pays; `again` as in `Batches.to_cache`.

    Several processes only read the cache, and decode the rest when needed: none needs all images, and a file that
    several hosts write to at once is not safe.
    """
    if process_count() > 1:
        return
    if ids := batches.to_cache(rows, again=again):
        with progress("decoding", len(ids)) as meter:
            batches.cache.fill(ids, batches.decoded, batches.config.workers, meter.advance)
