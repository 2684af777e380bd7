"""The loops around the steps: through an epoch, and through every row once."""

from collections.abc import Callable, Iterable

import numpy as np

from jaxlesion.data.batch import Batch
from jaxlesion.learning.state import TrainState
from jaxlesion.model.variables import Variables


class NotFinite(RuntimeError):
    """The loss or the gradient is NaN or infinite at `step`, on the rows `rows` of the table."""

    def __init__(self, step: int, rows: np.ndarray):
        super().__init__(f"loss or gradient is not finite at step {step}")
        self.step, self.rows = step, rows


def train_batches(
    step: Callable,
    state: TrainState,
    batches: Iterable[Batch],
    put: Callable[[Batch], Batch],
    on_loss: Callable[[float], None] = lambda loss: None,
    due: Callable[[], bool] = lambda: False,
    save: Callable[[TrainState], None] = lambda state: None,
) -> TrainState:
    """Run `step` over the batches.

    Args:
        step: from `make_train_step`.
        state: donated.
        batches: of host arrays.
        put: brings a batch to the devices.
        on_loss: called with the mean loss of every batch.
        due: asked after every step whether the state is to be saved now.
        save: called with a state that is known to be finite.

    Returns:
        The state after the last step.

    Raises:
        NotFinite: at the first step whose loss or gradient is not finite.
    """
    done, waiting = int(state.step), None

    def settle() -> None:
        if waiting is not None:
            at, metrics, rows = waiting
            loss, norm = (float(metrics[name]) for name in ("loss", "grad_norm"))
            if not (np.isfinite(loss) and np.isfinite(norm)):
                raise NotFinite(at, rows)
            on_loss(loss)

    for batch in batches:
        state, metrics = step(state, put(batch))
        settle()  # the step before this one: reading it never leaves the device without work
        done += 1
        waiting = done, metrics, batch["row"][batch["mask"] > 0]
        if due():
            settle()
            waiting = None
            save(state)
    settle()
    return state


def predict_batches(
    step: Callable,
    variables: Variables,
    batches: Iterable[Batch],
    put: Callable[[Batch], Batch],
    after: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """What `step` gives for every unmasked row, in the order of the batches.

    Args:
        step: from `make_predict_step`, or any function of (variables, batch) to [b, ...].
        variables: on the mesh.
        batches: of host arrays.
        put: brings a batch to the devices.
        after: called with the number of rows of each batch as soon as it is on its way.

    Returns:
        [rows, ...] float32.
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
