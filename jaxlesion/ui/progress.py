"""Progress on a terminal, as one line; in a log file a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jaxlesion.core.hooks import Meter
from jaxlesion.ui.terminal import notes, say

LOG_SECONDS = 60  # between two lines of progress where there is no terminal


def _bar(*columns: Any) -> Progress:
    """Return a bar on standard error, which leaves nothing behind, and is not there without a terminal."""
    title = TextColumn("{task.description}", markup=False)
    return Progress(title, BarColumn(), *columns, console=notes, transient=True, disable=not notes.is_terminal)


class ProgressBar(Meter):
    """Show a meter as a bar with loss, images per second and remaining time; a line now and then in a log file."""

    def __init__(self, title: str, steps: int, start: int = 0, images: int = 1):
        super().__init__(title, steps, start, images)
        note = TextColumn("{task.fields[note]}", markup=False)
        self.bar = _bar(MofNCompleteColumn(), note, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
        self.task = self.bar.add_task(title, total=steps, completed=start, note="")
        self.printed = time.monotonic()

    def tick(self, loss: float | None = None, steps: int = 1) -> None:
        """Count some steps and show how far it is."""
        super().tick(loss, steps)
        parts = [f"loss {loss:.4f}"] if loss is not None else []
        self.show("  ".join([*parts, f"{self.rate:.1f} img/s"] if self.images else parts))

    def show(self, note: str) -> None:
        """Show the steps that are done, with a note."""
        self.bar.update(self.task, completed=self.done, note=note)
        self.log(note)

    def log(self, note: str) -> None:
        """Print a line where there is no terminal, unless the last one is not long ago."""
        if not notes.is_terminal and time.monotonic() - self.printed > LOG_SECONDS:
            self.printed = time.monotonic()
            say(f"{self.title}: {self.done:,} of {self.steps:,}  {note}")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


class RunProgress:
    """One line for a whole training: the fold, of how many, and the time that all of them still take.

    It takes the events of `training.run.train_run` and makes the meters of its work. The share that is done counts the
    steps of all folds alike; the time left follows from the time since the first step, which compiles.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._folds, self._fold, self._steps, self._step = 0, 0, 1, 0
        self._first: tuple[float, float] | None = None  # time and share done of the first step here

    def __call__(self, event: str, **details: Any) -> None:
        """Take an event; most are ignored."""
        if event == "planned":
            self._folds, self._fold = len(details["folds"]), -1
        elif event == "fold":
            self._fold, self._steps, self._step = self._fold + 1, details["steps"], 0
        elif event == "step":
            self._step = details["step"]
            self._first = self._first or (time.monotonic(), self.share)

    @property
    def share(self) -> float:
        """Return the share of all steps that is done."""
        return (self._fold + self._step / self._steps) / self._folds

    @property
    def left(self) -> float | None:
        """Return the seconds that are left; None before there are two steps."""
        if self._first is None or self.share <= self._first[1]:
            return None
        since, done = time.monotonic() - self._first[0], self.share - self._first[1]
        return since / done * (1 - self.share)

    @property
    def elapsed(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def times(self) -> str:
        """Return the time since the beginning and the time left, as text."""
        left = self.left
        return f"{as_clock(self.elapsed)} ETA {'-:--:--' if left is None else as_clock(left)}"

    def meter(self, title: str, steps: int, start: int = 0, images: int = 1) -> ProgressBar:
        """Return the meter of some work of this training."""
        return _RunBar(self, title, steps, start, images) if self._folds else ProgressBar(title, steps, start, images)

    def titled(self, title: str) -> str:
        """Return a title after the number of its fold, where there are several."""
        return f"[{self._fold + 1}/{self._folds}] {title}" if self._folds > 1 else title


class _RunBar(ProgressBar):
    """Show a meter as a line of the whole training."""

    def __init__(self, run: RunProgress, title: str, steps: int, start: int, images: int):
        super().__init__(run.titled(title), steps, start, images)
        self.run = run
        texts = (TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[note]}", markup=False))
        self.bar = _bar(*texts, _Times(run))
        self.task = self.bar.add_task(self.title, total=1.0, completed=run.share, note="")

    def show(self, note: str) -> None:
        """Show the share of the whole training, with a note."""
        self.bar.update(self.task, completed=self.run.share, note=note)
        self.log(f"{note}  {self.run.times}")


class _Times(ProgressColumn):
    """Show the times of a whole training, also while a step takes long."""

    max_refresh = 0.5

    def __init__(self, run: RunProgress):
        super().__init__()
        self.run = run

    def render(self, task: Task) -> Text:
        return Text(self.run.times)


def as_clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yield `update(done, total)`."""
    with _bar(MofNCompleteColumn(), TimeElapsedColumn()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
