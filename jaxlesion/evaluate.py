"""python -m jaxlesion.evaluate: figures from the checkpoints of a run, or from a table of predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.batches import open_batches
from jaxlesion.data.dataset import Dataset, fingerprint, open_dataset
from jaxlesion.data.lesions import KEYS, read_lesions
from jaxlesion.data.predictions import concatenate, read_predictions, write_predictions
from jaxlesion.evaluation.bootstrap import RESAMPLES
from jaxlesion.evaluation.compare import P_NOTE, Comparison, compare
from jaxlesion.evaluation.subgroups import DIAGNOSES, VARIABLES, as_text, by_subgroup
from jaxlesion.evaluation.summary import (
    PRIOR_NOTE,
    EvalOptions,
    Summary,
    as_json,
    notes_on,
    resampled_by,
    rows_of_run,
    summarise,
)
from jaxlesion.inference.predictor import data_config, predict_ensemble, predict_out_of_fold
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import print_comparison, print_summary, progress, say
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse

COLUMNS = (*KEYS, *VARIABLES, *DIAGNOSES)  # of the metadata: what figures and subgroups need
BEST_NOTE = "checkpoint best: its epoch was chosen on rows of this very fold, so these figures are too good"


@dataclass(frozen=True)
class EvaluateConfig:
    """Metrics of a run, predicted anew from its checkpoints, or of a table of predictions."""

    run: Path | None = None
    """Folder of a run: every finished fold predicts again what it held out."""
    predictions: Path | None = None
    """CSV with isic_id and prediction, and target unless --metadata gives it."""
    metadata: Path | None = None
    """With --predictions: CSV that gives target and patient_id by isic_id [default: that of --data-dir, if given]."""
    data_dir: Path | None = None
    """With --run: where its data lies now, or another labelled set, which the mean of the folds predicts."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint predicts. best was chosen on rows that it is scored on."""
    batch_size: int | None = None
    """With --run: images per step [default: the run's]. No figure depends on it."""
    compare: tuple[Path, Path] | None = None
    """Two CSVs as for --predictions, of the same rows: their figures, differences, and how sure those are."""
    threshold: float = 0.5
    """Predictions of at least this are malignant."""
    sensitivity: float | None = None
    """Choose the second threshold, on the other folds, to reach this sensitivity there [default: the highest F1]."""
    bootstrap: int = RESAMPLES
    """Draws for the intervals: of patients, or of rows where no patient has two. 0 for no intervals."""
    subgroups: bool = False
    """Also by sex, age, site, hospital, kind of tile and size, and sensitivity by diagnosis, where these are known."""
    out: Path | None = None
    """Write the predictions there, as CSV."""
    json: Path | None = None
    """Write the figures there, as JSON."""


def evaluate(config: EvaluateConfig) -> Summary | dict[str, Comparison]:
    """Print the figures and return them; write them and the predictions where asked to.

    The JSON holds `notes`, a list of text; `bootstrap` with `draws`, `by` (patient or row, what was drawn) and `level`,
    or null without intervals; and `figures`: by part (`fold k`, `pooled`, `mean of folds`, or the name of the file or
    `external` where rows have no fold), by rows (`normalised`, `whole fold` or `all rows`), by name (those of
    `registry.summary`, and after `chosen_` those at the threshold chosen on the other folds), then `value`, `low` and
    `high`. What is undefined or has no interval is null. With --compare, `figures` is by name alone, then `a`, `b`,
    `difference`, `low`, `high` and `p`.

    Raises:
        InputError: not one of a run, a table and two tables; an option out of range; or whatever is wrong with them.
    """
    how = EvalOptions(threshold=config.threshold, sensitivity=config.sensitivity, resamples=config.bootstrap)
    _check(config)
    if config.compare is not None:
        return _compare(config, how)
    source = _of_table(config) if config.run is None else _of_run(config, Run.open(config.run))
    with progress("bootstrap") as tick:
        parts = summarise(source.rows, source.name, replace(how, tick=tick))
    notes = [*notes_on(how, source.table, parts.get("pooled", {}).get(next(iter(source.rows)), ())), *source.notes]
    print_summary(parts)
    for note in notes:
        say(note)
    if config.subgroups:
        say(as_text(by_subgroup(source.table, source.lesions, config.threshold, resamples=config.bootstrap)))
    if config.out is not None:
        write_predictions(config.out, source.table)
    if config.json is not None:
        write_atomic(config.json, as_json(parts, notes, config.bootstrap, resampled_by(source.table)))
    return parts


def _check(config: EvaluateConfig) -> None:
    if config.compare is not None:
        if config.run is not None or config.predictions is not None or config.out is not None:
            raise InputError("--compare takes two tables of its own: leave out --run, --predictions and --out")
    elif (config.run is None) == (config.predictions is None):
        raise InputError("give one of --run, a run's folder, and --predictions, a CSV")
    if config.subgroups and config.predictions is not None and not (config.metadata or config.data_dir):
        raise InputError("--subgroups needs the metadata: give --metadata a CSV, or --data-dir")
    if config.bootstrap < 0:
        raise InputError(f"--bootstrap is a number of draws, 0 for none, not {config.bootstrap}")
    if config.sensitivity is not None and not 0 < config.sensitivity <= 1:
        raise InputError(f"--sensitivity must be in (0, 1], not {config.sensitivity}")
    for option, path in (("--out", config.out), ("--json", config.json)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no such folder; make it, or give another path")


def _compare(config: EvaluateConfig, how: EvalOptions) -> dict[str, Comparison]:
    names = [str(path) for path in config.compare]
    a, b = (_labelled(config, path) for path in config.compare)
    with progress("bootstrap") as tick:
        figures = compare(a, b, names, replace(how, tick=tick))
    by = a if resampled_by(a) == "patient" else b
    notes = [*notes_on(how, by, figures), P_NOTE]
    print_comparison(f"a: {names[0]}\nb: {names[1]}\n{len(a):,} rows", ("a", "b"), figures)
    for note in notes:
        say(note)
    if config.json is not None:
        write_atomic(config.json, as_json(figures, notes, config.bootstrap, resampled_by(by)))
    return figures


class _Source(NamedTuple):
    table: pd.DataFrame
    lesions: pd.DataFrame  # with what is known of them
    rows: dict[str, pd.DataFrame]  # sets of its rows
    name: str
    notes: list[str]


def _metadata(config: EvaluateConfig) -> pd.DataFrame | None:
    labels = config.metadata or (config.data_dir and config.data_dir / "train-metadata.csv")
    return None if labels is None else read_lesions(labels, columns=COLUMNS)


def _labelled(config: EvaluateConfig, path: Path) -> pd.DataFrame:
    """A Predictions table whose targets are all known."""
    table = read_predictions(path, _metadata(config))
    if (unknown := table["target"].isna()).any():
        first = table["isic_id"][unknown].iloc[0]
        raise InputError(f"{path}: {first} has no target; give --metadata a CSV that has them")
    return table


def _of_table(config: EvaluateConfig) -> _Source:
    table = _labelled(config, config.predictions)
    lesions = _metadata(config) if config.subgroups else None
    return _Source(table, table if lesions is None else lesions, {"all rows": table}, config.predictions.name, [])


def _of_run(config: EvaluateConfig, run: Run) -> _Source:
    dataset = open_dataset(config.data_dir or run.config.data_dir, columns=COLUMNS)
    digests = fingerprint(dataset)
    loader = data_config(run, config.batch_size)
    notes = [PRIOR_NOTE] + ([BEST_NOTE] if config.checkpoint == "best" else [])
    if config.data_dir is not None and is_external(run, dataset):
        batches = open_batches(loader, dataset.lesions, dataset, digests["images"])
        table = predict_ensemble(run, dataset.lesions, batches, config.checkpoint)
        notes.append(f"external set, no lesion of it was trained on: {table['model'].iloc[0]}")
        return _Source(table, dataset.lesions, {"all rows": table}, "external", notes)
    run.check_data(digests)
    lesions = run.lesions(dataset)
    batches = open_batches(loader, lesions, dataset, digests["images"])
    table = predict_out_of_fold(run, lesions, batches, config.checkpoint)
    if config.checkpoint == "last":
        notes.append(_agreement(run, table))
    return _Source(table, lesions, rows_of_run(run.config, lesions, table), "whole", notes)


def is_external(run: Run, dataset: Dataset) -> bool:
    """Whether a dataset shares nothing with what a run was trained on.

    Raises:
        InputError: it shares a patient, but no lesion: figures on it would be neither held out nor out of fold.
    """
    trained = run.folds_table()
    if dataset.lesions["isic_id"].isin(trained["isic_id"]).any():
        return False  # the run's own data; where it is not, the hashes will say so
    if (shared := dataset.lesions["patient_id"].isin(trained["patient_id"])).any():
        first = dataset.lesions["patient_id"][shared].iloc[0]
        raise InputError(
            f"{dataset.metadata}: {shared.sum()} rows are of patients that {run.folder} was trained on ({first}, ...): "
            "figures on them would be too good; remove those rows"
        )
    return True


def _agreement(run: Run, table: pd.DataFrame) -> str:
    """How far the predictions are from those that training wrote."""
    stored = concatenate([read_predictions(run.fold(k).oof) for k in run.finished_folds()])
    known = stored.set_index("isic_id")["prediction"].reindex(table["isic_id"]).to_numpy(np.float32)
    return f"largest difference to the predictions that training wrote: {np.abs(known - table['prediction']).max():.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m jaxlesion.evaluate`."""
    prepare_process()
    run_program(lambda: evaluate(parse(EvaluateConfig, arguments(argv), "evaluate")))


if __name__ == "__main__":
    main()
