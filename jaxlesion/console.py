"""What a person sees: progress, tables, and one line for an error. Only programs print."""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jaxlesion.errors import InputError
from jaxlesion.metrics import CLASSES

console = Console(highlight=False, soft_wrap=True)
LOG_SECONDS = 60  # between two lines of progress where there is no terminal


def run_program(program: Callable[[], Any]) -> None:
    """Call `program`; an InputError becomes one line on stderr and exit code 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every save there
    try:
        program()
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None


def say(text: str) -> None:
    """One line, as it is."""
    console.print(text, markup=False)


class Meter:
    """A progress bar over steps with loss, images per second and remaining time; as a context manager.

    Args:
        title: what is being done.
        steps: how many there are.
        start: how many are done already.
        images: per step.
    """

    def __init__(self, title: str, steps: int, start: int = 0, images: int = 1):
        self.images, self.start, self.done, self.first = images, start, start, None
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task(title, total=steps, completed=start, note="")
        self.title, self.steps, self.said = title, steps, time.monotonic()

    def tick(self, loss: float | None = None, steps: int = 1) -> None:
        """Some steps are done; their loss, if they have one."""
        self.done += steps
        if self.first is None:  # the first call compiles: the rate is counted from its end
            self.first = (time.perf_counter(), self.done)
        note = f"{self.rate:.1f} img/s" if loss is None else f"loss {loss:.4f}  {self.rate:.1f} img/s"
        self.bar.update(self.task, completed=self.done, note=note)
        if not console.is_terminal and time.monotonic() - self.said > LOG_SECONDS:  # a log file shows no bar
            self.said = time.monotonic()
            say(f"{self.title}: {self.done:,} of {self.steps:,}  {note}")

    @property
    def rate(self) -> float:
        """Images per second since the first call; 0 before a second one."""
        if self.first is None or self.done == self.first[1]:
            return 0.0
        return (self.done - self.first[1]) * self.images / (time.perf_counter() - self.first[0])

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


FIGURES = (
    ("rows", "n"),
    ("malignant", "positives"),
    ("malignant : benign", "positive_to_negative"),
    ("ROC AUC", "roc_auc"),
    ("PR AUC", "pr_auc"),
    ("pAUC above 80 % TPR", "pauc"),
    ("accuracy", "accuracy"),
    ("Hamming loss", "hamming"),
    *(
        (f"{c} {name}", f"{c}_{key}")
        for c in CLASSES
        for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
    ),
    ("macro F1", "macro_f1"),
)


def print_figures(title: str, columns: Mapping[str, Mapping[str, float]], notes: Sequence[str] = ()) -> None:
    """A table of figures, one column per set of rows, with notes under it."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for label, key in FIGURES:
        table.add_row(label, *(_shown(figures[key]) for figures in columns.values()))
    console.print(table)
    for note in notes:
        say(note)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if value == value else "undefined"
