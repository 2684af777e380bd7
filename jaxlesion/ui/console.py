"""Progress and tables on a terminal."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jaxlesion.evaluation.metrics import CLASSES
from jaxlesion.evaluation.summary import CHOSEN, Compared, Figure

console = Console(highlight=False, soft_wrap=True)
LOG_SECONDS = 60  # between two lines of progress where there is no terminal


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


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar; gives what takes the number done and the number there will be."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# Label and key of every figure that is printed. Those at a threshold stand under it, in a section of their own.
RATES = (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
BY_CLASS = tuple((f"{c} {name}", f"{c}_{key}") for c in CLASSES for name, key in RATES)
FIGURES = (
    ("rows", "n"),
    ("malignant", "positives"),
    ("malignant : benign", "positive_to_negative"),
    ("ROC AUC", "roc_auc"),
    ("pAUC above 80 % TPR", "pauc"),
    ("PR AUC", "pr_auc"),
    *((f"sens. at {s} % spec.", f"sensitivity_at_{s}_specificity") for s in (90, 95)),
    *((f"spec. at {s} % sens.", f"specificity_at_{s}_sensitivity") for s in (90, 95)),
    ("Brier score", "brier"),
    ("calibration error", "ece"),
    ("threshold", "threshold"),
    ("called malignant", "predicted_positives"),
    ("accuracy", "accuracy"),
    ("Hamming loss", "hamming"),
    *BY_CLASS,
    *((f"{mean} {name}", f"{mean}_{key}") for mean in ("macro", "weighted") for name, key in RATES),
    ("chosen threshold", f"{CHOSEN}threshold"),
    ("called malignant", f"{CHOSEN}predicted_positives"),
    ("accuracy", f"{CHOSEN}accuracy"),
    *((label, CHOSEN + key) for label, key in BY_CLASS),
    ("macro F1", f"{CHOSEN}macro_f1"),
)


def print_figures(title: str, columns: Mapping[str, Mapping[str, Figure]], notes: Sequence[str] = ()) -> None:
    """A table of figures with their intervals, one column per set of rows, with notes under it."""
    cells = [{name: _shown(*figure) for name, figure in figures.items()} for figures in columns.values()]
    _print_table(title, [*columns], cells)
    for note in notes:
        say(note)


def print_comparison(title: str, names: Sequence[str], figures: Mapping[str, Compared]) -> None:
    """A table of the figures of two tables of predictions, and their differences."""
    columns = (
        {name: _shown(one.a) for name, one in figures.items()},
        {name: _shown(one.b) for name, one in figures.items()},
        {name: _shown(one.difference, one.low, one.high) for name, one in figures.items()},
        {name: "" if one.p is None else f"{one.p:.3f}" for name, one in figures.items()},
    )
    _print_table(title, [*names, "difference", "p"], columns)


def _print_table(title: str, names: Sequence[str], columns: Sequence[Mapping[str, str]]) -> None:
    """The cells of each column, by the names of the figures; a threshold heads what it has in any of them."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    printed = {name for column in columns for name in column}
    for label, key in FIGURES:
        heading = key.endswith("threshold")
        if heading:
            table.add_section()
        if key in printed or (heading and key.replace("threshold", "accuracy") in printed):
            table.add_row(label, *(column.get(key, "") for column in columns))
    console.print(table)


def _shown(value: float, low: float | None = None, high: float | None = None) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    shown = f"{value:.4f}" if value == value else "undefined"
    return shown if low is None else f"{shown} [{low:.4f}, {high:.4f}]"
