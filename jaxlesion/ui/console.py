"""Tables of metrics, and of a configuration."""

import shlex
from collections.abc import Mapping, Sequence

import pandas as pd

from jaxlesion.core.config import TrainConfig
from jaxlesion.core.presets import preset
from jaxlesion.data.predictions import read_predictions
from jaxlesion.evaluation import registry
from jaxlesion.evaluation.clinic import WHOLE_FOLD, Grid, without_uncorrected
from jaxlesion.evaluation.compare import Comparison
from jaxlesion.evaluation.summary import (
    MEAN,
    POOLED,
    PRIOR_NOTE,
    Estimate,
    Estimates,
    EvalOptions,
    Summary,
    notes_on,
    notes_on_prior,
    resampled_by,
    summarise_run,
)
from jaxlesion.runs.store import Run
from jaxlesion.ui.described import as_text, describe
from jaxlesion.ui.progress import as_clock, progress
from jaxlesion.ui.terminal import say, say_columns, show, show_table

PLACES = ("data_dir", "run_dir", "fold")  # options that say where, and not how


def print_changes(config: TrainConfig) -> None:
    """Print the main settings, each option that is not as its preset has it, and where all of them are."""
    of_preset = {option.name: option for option in describe(TrainConfig, preset(config.preset))}
    data, model = config.data, config.model.variant
    epochs = f"{config.epochs} epoch{'s'[: config.epochs > 1]}"
    say(f"preset {config.preset}: {model}, {data.image_size} px, batch {data.batch_size}, {epochs}; changed:")
    changed = [one for one in describe(TrainConfig, config) if one.default != of_preset[one.name].default]
    rows = []
    for option in changed:
        before = of_preset[option.name].default
        instead = "" if before in (None, ()) or option.name in PLACES else f"(preset: {as_text(before)})"
        rows.append((option.flag, as_text(option.default), instead))
    say_columns(rows)
    say(f"all options: {config.run_dir / 'config.json'}")


def print_next(run: Run, seconds: float) -> None:
    """Print what a training took, and the three files to open next."""
    finished = run.finished_folds()
    records = run.fold(finished[-1]).folder / "metrics.jsonl"
    say(f"finished: fold {', '.join(map(str, finished))}. Took {as_clock(seconds)}. To open next:")
    say_columns(
        [
            (str(run.folder / "oof.csv"), "the probability of each held-out lesion"),
            (str(records), "loss and validation after each epoch"),
            (str(run.folder / "report" / "report.html"), "a page with pictures, once this has made it:"),
        ]
    )
    say(f"    python -m jaxlesion.report --run {shlex.quote(str(run.folder))}")


def print_summary(summary: Summary) -> None:
    """Print a table for each fold, then one for each set of rows, pooled and mean of folds side by side."""
    for part, by_rows in summary.items():
        if part not in (POOLED, MEAN):
            print_estimates(part, by_rows)
    for rows in summary.get(POOLED, ()):
        print_estimates(rows, {part: summary[part][rows] for part in (POOLED, MEAN) if part in summary})


def print_estimates(title: str, columns: Mapping[str, Estimates], legend: Sequence[str] = ()) -> None:
    """Print a table of metrics with their intervals, one column per set of rows, with its legend under it."""
    cells = [{key: _of_key(key, estimate) for key, estimate in estimates.items()} for estimates in columns.values()]
    _print_table(title, [*columns], cells)
    for line in legend:
        show(line)


def print_fold(run: Run, lesions: pd.DataFrame, table: pd.DataFrame) -> None:
    """Print the metrics of one fold's held-out rows."""
    for name, columns in summarise_run(run.config, lesions, table).items():
        by = f"[95% interval] by {EvalOptions().resamples:,} draws of {resampled_by(table)}s"
        print_estimates(name, columns, ["thresholded at 0.5", by, PRIOR_NOTE])


def print_run(run: Run, lesions: pd.DataFrame) -> None:
    """Print the metrics of a run's out-of-fold predictions, by fold and of all folds together."""
    table = read_predictions(run.folder / "oof.csv")
    with progress("bootstrap") as tick:
        options = EvalOptions(tick=tick)
        summary = without_uncorrected(summarise_run(run.config, lesions, table, options), run.config)
    print_summary(summary)
    printed = summary.get(POOLED, {}).get(WHOLE_FOLD, ())
    for note in [*notes_on(options, table, printed), *notes_on_prior(run.config)]:
        show(note)


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
    show_table(grid.title, grid.columns, [(label, *map(_cell, cells)) for label, cells in grid.rows])


def print_neighbours(title: str, by_k: Mapping[str, Estimates]) -> None:
    """Print the metrics of each number of neighbours, a column each."""
    first = next(iter(by_k.values()))
    if "n" in first:  # not of a mean
        title += f": {first['n'].value:,} rows, {first['positives'].value:,} malignant"
    keys = [(label, key) for label, key in registry.printed(registry.Table.KNN) if key in first]
    rows = [(label, *(_stacked(estimates[key]) for estimates in by_k.values())) for label, key in keys]
    show_table(title, [*by_k], rows)


def _print_table(title: str, names: Sequence[str], columns: Sequence[Mapping[str, str]]) -> None:
    """Print the cells of each column, by the metrics' keys; a threshold heads its metrics, if any column has some."""
    present, rows = {key for column in columns for key in column}, []
    for label, key in registry.printed(registry.Table.CONSOLE):
        heading = key.endswith("threshold")
        if heading:
            rows.append(None)
        if key in present or (heading and key.replace("threshold", "accuracy") in present):
            rows.append((label, *(column.get(key, "") for column in columns)))
    show_table(title, names, rows)


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
