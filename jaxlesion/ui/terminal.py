"""Destination of text: results to standard output, progress and notes to standard error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

PLAIN = {"highlight": False, "soft_wrap": True, "markup": False, "emoji": False}  # names may look like markup
results, notes = Console(**PLAIN), Console(**PLAIN, stderr=True)


def say(text: str) -> None:
    """Print a note on standard error, as it is."""
    notes.print(text)


def show(text: str) -> None:
    """Print a line of results, as it is."""
    results.print(text)


def say_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print notes in columns; the last one is never padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def results_to_stderr(wanted: bool) -> Iterator[None]:
    """Print results on standard error while the context lasts, if wanted: standard output is then a file's."""
    results.stderr, before = wanted or results.stderr, results.stderr
    try:
        yield
    finally:
        results.stderr = before


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Print neither results nor notes while the context lasts, if wanted."""
    results.quiet = notes.quiet = wanted
    try:
        yield
    finally:
        results.quiet = notes.quiet = False


Rows = Sequence[Sequence[str] | None]  # the cells of each row, its label first; None for a line between two


def show_table(title: str, names: Sequence[str], rows: Rows) -> None:
    """Print a table, no cell of which is ever cut.

    On a terminal the columns come in as many blocks, one under the other, as its width takes; elsewhere in one.

    Args:
        title: above each block.
        names: of the columns after the first, which has the labels.
        rows: see `Rows`.
    """
    for block in _blocks(names, rows):
        results.print(title, style="bold")
        table = _table([names[k] for k in block], [row and [row[0], *(row[k + 1] for k in block)] for row in rows])
        wide = Console(**PLAIN, file=results.file, width=max(_width(table), results.width))
        wide.quiet = results.quiet
        wide.print(table)


def _blocks(names: Sequence[str], rows: Rows) -> list[list[int]]:
    """Return the columns of each block."""
    if not results.is_terminal:
        return [list(range(len(names)))]
    blocks: list[list[int]] = []
    for k in range(len(names)):
        wider = [*(blocks[-1] if blocks else []), k]
        cells = [row and [row[0], *(row[j + 1] for j in wider)] for row in rows]
        if blocks and _width(_table([names[j] for j in wider], cells)) <= results.width:
            blocks[-1] = wider
        else:
            blocks.append([k])
    return blocks or [[]]


def _table(names: Sequence[str], rows: Rows) -> Table:
    table = Table()
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_section() if row is None else table.add_row(*row)
    return table


def _width(table: Table) -> int:
    return Measurement.get(results, results.options.update(max_width=100_000), table).maximum
