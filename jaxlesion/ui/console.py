"""Progress and tables on a terminal."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jaxlesion.core.hooks import Meter
from jaxlesion.evaluation import registry
from jaxlesion.evaluation.clinic import Grid
from jaxlesion.evaluation.compare import Comparison
from jaxlesion.evaluation.summary import MEAN, POOLED, Estimate, Estimates, Summary

console = Console(highlight=False, soft_wrap=True)
LOG_SECONDS = 60  # between two lines of progress where there is no terminal


def say(text: str) -> None:
    """Print one line, as it is."""
    console.print(text, markup=False)


class ProgressBar(Meter):
    """Show a meter as a bar with loss, images per second and remaining time; a line now and then in a log file."""

    def __init__(self, title: str, steps: int, start: int = 0, images: int = 1):
        super().__init__(title, steps, start, images)
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
        self.printed = time.monotonic()

    def tick(self, loss: float | None = None, steps: int = 1) -> None:
        """Count some steps and show how far it is."""
        super().tick(loss, steps)
        note = f"{self.rate:.1f} img/s" if loss is None else f"loss {loss:.4f}  {self.rate:.1f} img/s"
        self.bar.update(self.task, completed=self.done, note=note)
        if not console.is_terminal and time.monotonic() - self.printed > LOG_SECONDS:
            self.printed = time.monotonic()
            say(f"{self.title}: {self.done:,} of {self.steps:,}  {note}")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yield `update(done, total)`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_summary(summary: Summary) -> None:
    """Print a table for each fold, then one for each set of rows, pooled and mean of folds side by side."""
    for part, by_rows in summary.items():
        if part not in (POOLED, MEAN):
            print_estimates(part, by_rows)
    for rows in summary.get(POOLED, ()):
        print_estimates(rows, {part: summary[part][rows] for part in (POOLED, MEAN) if part in summary})


def print_estimates(title: str, columns: Mapping[str, Estimates], notes: Sequence[str] = ()) -> None:
    """Print a table of metrics with their intervals, one column per set of rows, with notes under it."""
    cells = [{key: _of_key(key, estimate) for key, estimate in estimates.items()} for estimates in columns.values()]
    _print_table(title, [*columns], cells)
    for note in notes:
        say(note)


def print_comparison(title: str, names: Sequence[str], comparisons: Mapping[str, Comparison]) -> None:
    """Print a table of the metrics of two tables of predictions, and their differences."""
    columns = (
        {key: _shown(one.a) for key, one in comparisons.items()},
        {key: _shown(one.b) for key, one in comparisons.items()},
        {key: _shown(one.difference, one.low, one.high) for key, one in comparisons.items()},
        {key: _p(one) for key, one in comparisons.items()},
    )
    _print_table(title, [*names, "difference", "p"], columns)


def print_grid(grid: Grid) -> None:
    """Print a table of clinical metrics."""
    table = _table(grid.title, grid.columns)
    for label, cells in grid.rows:
        table.add_row(label, *(_cell(cell) for cell in cells))
    console.print(table)


def print_neighbours(title: str, by_k: Mapping[str, Estimates]) -> None:
    """Print the metrics of each number of neighbours, a column each."""
    first = next(iter(by_k.values()))
    if "n" in first:  # not of a mean
        title += f": {first['n'].value:,} rows, {first['positives'].value:,} malignant"
    table = _table(title, [*by_k])
    for label, key in registry.printed(registry.Table.KNN):
        if key in first:
            table.add_row(label, *(_stacked(estimates[key]) for estimates in by_k.values()))
    console.print(table)


def _print_table(title: str, names: Sequence[str], columns: Sequence[Mapping[str, str]]) -> None:
    """Print the cells of each column, by the metrics' keys; a threshold heads its metrics, if any column has some."""
    table = _table(title, names)
    present = {key for column in columns for key in column}
    for label, key in registry.printed(registry.Table.CONSOLE):
        heading = key.endswith("threshold")
        if heading:
            table.add_section()
        if key in present or (heading and key.replace("threshold", "accuracy") in present):
            table.add_row(label, *(column.get(key, "") for column in columns))
    console.print(table)


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    return table


def _cell(cell: Estimate | float | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and abs(cell) >= 100:
        return f"{cell:,.1f}"
    return _stacked(cell) if isinstance(cell, Estimate) else _shown(cell)


def _of_key(key: str, estimate: Estimate) -> str:
    """Return a metric as text; a threshold in full, since a rounded one calls other rows."""
    return repr(estimate.value) if key.endswith("threshold") else _shown(*estimate)


def _shown(value: float, low: float | None = None, high: float | None = None) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    shown = f"{value:.4f}" if value == value else "undefined"
    return shown if low is None else f"{shown} [{low:.4f}, {high:.4f}]"


def _p(one: Comparison) -> str:
    """Return the p of the primary metric as it is, and of others as adjusted."""
    if one.p is None:
        return ""
    return f"{one.p:.4f}" if one.p_holm is None else f"Holm {one.p_holm:.3f}"


def _stacked(estimate: Estimate) -> str:
    """Return a value above its interval, so that four columns fit into 80 characters."""
    value = _shown(estimate.value)
    return value if estimate.low is None else f"{value}\n{estimate.low:.3f}-{estimate.high:.3f}"
