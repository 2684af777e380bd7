"""Save the state of a training: by the clock, or because it is to stop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jaxlesion.core.hooks import ignore
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.state import TrainState
from jaxlesion.runtime.processes import Votes, process_index
from jaxlesion.runtime.signals import Stopped, StopSignal


@dataclass
class SaveClock:
    """Tell whether a save is due after a step: `minutes` since the last one, except at the epoch's end.

    Args:
        minutes: between two saves.
        left: steps that are left of the epoch, whose end is saved in any case.
    """

    minutes: float
    left: int
    last: float = field(default_factory=time.monotonic)

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0 or time.monotonic() - self.last < 60 * self.minutes:
            return False
        self.last = time.monotonic()
        return True


@dataclass
class Saver:
    """Save the state in mid-epoch, at the same step in every process, and stop after it where a signal came.

    The processes vote after each step: 0 to continue, 1 to save, a signal's number to save and stop. The largest vote
    counts in all of them, and so does the first process's clock.

    Args:
        checkpoints: that it saves into.
        stop: whether a signal came.
        votes: between the processes.
        clock: of this epoch.
        observe: see `Hooks`.
    """

    checkpoints: Checkpoints
    stop: StopSignal
    votes: Votes
    clock: SaveClock
    observe: Callable[..., None] = ignore
    verdict: int = 0

    def due(self, step: int, rows: np.ndarray) -> bool:
        """Return whether to save after this step."""
        self.observe("step", step=step, rows=rows)
        self.stop.waits = True  # from here on there is something to lose
        by_clock = self.clock() and process_index() == 0  # asked at every step, since it counts them
        self.verdict = self.votes(self.stop.number or int(by_clock))
        # After the epoch's last step, validation comes first: its metrics go into the same checkpoint.
        return self.verdict > 0 and self.clock.left > 0

    def save(self, state: TrainState) -> None:
        """Save the state, and end if a signal asked for it."""
        self.checkpoints.save(state)
        self.observe("saved", step=int(state.step))
        stop_if(self.verdict)


def stop_if(verdict: int) -> None:
    """Raise `Stopped` if the verdict is a signal; 1 only means that a save was due."""
    if verdict > 1:
        raise Stopped(verdict)
