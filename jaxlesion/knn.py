"""python -m jaxlesion.knn: the share of malignant ones among the nearest lesions of the other folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.core.hooks import Hooks
from jaxlesion.core.outputs import check_folder
from jaxlesion.data.predictions import write_predictions
from jaxlesion.evaluation.bootstrap import LEVEL, RESAMPLES
from jaxlesion.evaluation.summary import EvalOptions, Summary, as_json, resampled_by, summarise
from jaxlesion.inference.knn import KnnOptions, knn_predictions, model_name
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import print_neighbours
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.outputs import check_outputs
from jaxlesion.ui.progress import ProgressBar, progress
from jaxlesion.ui.terminal import results_to_stderr, say, show


@dataclass(frozen=True)
class KnnConfig(KnnOptions):
    """Predict each fold by the share of malignant ones among each lesion's k nearest of all rows of the other folds."""

    threshold: float = 0.5
    """Shares of at least this are malignant: at 0.5 also a tie, such as 5 of 10."""
    bootstrap: int = RESAMPLES
    """Draws for the intervals: of patients, or of rows where no patient has two. 0 for no intervals."""
    out: Path | None = None
    """Write the predictions into this folder, one CSV for each k."""
    json: Path | None = None
    """Write the metrics there, as JSON; - is standard output, and tables go to standard error."""


def knn(config: KnnConfig) -> Summary:
    """Print the metrics of each fold, and of all together, for every k; write them and the predictions if asked to.

    The JSON is that of `evaluate`, with `k = 5` and the like as sets of rows.

    Raises:
        InputError: an option out of range, nowhere to write to, or as of `knn_predictions`.
    """
    if config.bootstrap < 0:
        raise InputError(f"--bootstrap is a number of draws, 0 for none, not {config.bootstrap}")
    outputs = {"--json": config.json}
    if config.out is not None:
        check_folder("--out", config.out)
        if config.out.is_dir():
            outputs |= {f"--out, k = {k}:": config.out / _file_name(config, k) for k in config.k}
    with results_to_stderr(check_outputs(outputs, config)):
        return _knn(config)


def _knn(config: KnnConfig) -> Summary:
    tables = knn_predictions(config, Hooks(say, ProgressBar))
    with progress("bootstrap") as tick:
        options = EvalOptions(threshold=config.threshold, resamples=config.bootstrap, tick=tick)
        summary = summarise({f"k = {k}": table for k, table in tables.items()}, "", options)
    for name, by_k in summary.items():
        print_neighbours(f"{config.features}, {name}", by_k)
    notes = [f"malignant where the share of malignant neighbours is at least {config.threshold:g}"]
    by = resampled_by(next(iter(tables.values())))
    if config.bootstrap:
        notes.append(f"below a figure its {LEVEL:.0%} interval, by {config.bootstrap:,} draws of {by}s")
    for note in notes:
        show(note)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        for k, table in tables.items():
            write_predictions(config.out / _file_name(config, k), table)
        say(f"predictions in {config.out}")
    if config.json is not None:
        write_atomic(config.json, as_json(summary, notes, config.bootstrap, by))
    return summary


def _file_name(config: KnnConfig, k: int) -> str:
    return f"{model_name(config, k)}.csv"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.knn`."""
    prepare_process()
    run_program(lambda: knn(parse(KnnConfig, arguments(argv), "knn")))


if __name__ == "__main__":
    main()
