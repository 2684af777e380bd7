"""Reports of long work to its caller: lines of text, progress, and events. The defaults report nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self


class Meter:
    """Count the steps of some work and their rate; as a context manager. A subclass may show them.

    Args:
        title: what is being done.
        steps: how many there are.
        start: how many are done already.
        images: per step; 0 where the work is on none.
    """

    def __init__(self, title: str, steps: int, start: int = 0, images: int = 1):
        self.title, self.steps, self.images, self.done = title, steps, images, start
        self.first: tuple[float, int] | None = None  # when the first call came, and the steps done then

    def tick(self, loss: float | None = None, steps: int = 1) -> None:
        """Count some steps; `loss` is theirs, if they have one."""
        self.done += steps
        if self.first is None:  # the first call compiles: the rate is counted from its end
            self.first = (time.perf_counter(), self.done)

    def advance(self, steps: int) -> None:
        """Count some steps that have no loss."""
        self.tick(steps=steps)

    @property
    def rate(self) -> float:
        """Images per second since the first call; 0 before a second one."""
        if self.first is None or self.done == self.first[1]:
            return 0.0
        return (self.done - self.first[1]) * self.images / (time.perf_counter() - self.first[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def ignore(*_: object, **__: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Hooks:
    """Functions that long work calls to report to its caller.

    Args:
        say: called with lines of text.
        progress: makes a meter for each piece of work, called as `Meter`.
        observe: called with the name of an event and its details, such as `observe("step", step=3, rows=rows)`. An
            exception that it raises ends the work.
    """

    say: Callable[[str], None] = ignore
    progress: Callable[..., Meter] = Meter
    observe: Callable[..., None] = ignore


SILENT = Hooks()
