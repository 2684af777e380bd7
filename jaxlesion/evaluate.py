"""python -m jaxlesion.evaluate: metrics from the checkpoints of a run, or from a table of predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.predictions import write_predictions
from jaxlesion.evaluation.bootstrap import RESAMPLES
from jaxlesion.evaluation.compare import Comparison, compare, notes_on_p
from jaxlesion.evaluation.registry import has_interval
from jaxlesion.evaluation.subgroups import as_text, by_subgroup
from jaxlesion.evaluation.summary import (
    POOLED,
    EvalOptions,
    Summary,
    as_json,
    notes_on,
    resampled_by,
    summarise,
)
from jaxlesion.inference.labelled import LabelledOptions, open_labelled, read_labelled
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import ProgressBar, print_comparison, print_summary, progress, say
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse


@dataclass(frozen=True)
class EvaluateConfig(LabelledOptions):
    """Metrics of a run, whose checkpoints predict again, or of a table of predictions."""

    compare: tuple[Path, Path] | None = None
    """Two CSVs as for --predictions, of the same rows: their metrics, and differences with intervals."""
    primary: str = "roc_auc"
    """The metric of a comparison whose p is given as it is, by its key in JSON; others have Holm's."""
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
    """Write the metrics there, as JSON."""


def evaluate(config: EvaluateConfig) -> Summary | dict[str, Comparison]:
    """Print the metrics and return them; write them, as `as_json` says, and the predictions if asked to.

    Raises:
        InputError: not one of a run, a table and two tables; an option out of range; or whatever is wrong with them.
    """
    _check(config)
    options = EvalOptions(config.threshold, config.sensitivity, config.bootstrap, primary=config.primary)
    if config.compare is not None:
        return _compare(config, options)
    source = open_labelled(config, metadata=config.subgroups, progress=ProgressBar)
    with progress("bootstrap") as tick:
        summary = summarise(source.rows, source.name, replace(options, tick=tick))
    pooled = summary.get(POOLED, {}).get(next(iter(source.rows)), ())
    notes = [*notes_on(options, source.table, pooled), *source.notes]
    print_summary(summary)
    for note in notes:
        say(note)
    if config.subgroups:
        say(as_text(by_subgroup(source.table, source.lesions, config.threshold, resamples=config.bootstrap)))
    if config.out is not None:
        write_predictions(config.out, source.table)
    if config.json is not None:
        write_atomic(config.json, as_json(summary, notes, config.bootstrap, resampled_by(source.table)))
    return summary


def _compare(config: EvaluateConfig, options: EvalOptions) -> dict[str, Comparison]:
    names = [str(path) for path in config.compare]
    a, b = (read_labelled(config, path) for path in config.compare)
    with progress("bootstrap") as tick:
        comparisons = compare(a, b, names, replace(options, tick=tick))
    by = a if resampled_by(a) == "patient" else b
    notes = [*notes_on(options, by, comparisons), *notes_on_p(a, b, resampled_by(by), options)]
    print_comparison(f"a: {names[0]}\nb: {names[1]}\n{len(a):,} rows", ("a", "b"), comparisons)
    for note in notes:
        say(note)
    if config.json is not None:
        swaps = {"draws": options.swaps, "primary": options.primary} if config.bootstrap else None
        write_atomic(config.json, as_json(comparisons, notes, config.bootstrap, resampled_by(by), swaps))
    return comparisons


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
    if not has_interval(config.primary):
        raise InputError(f"--primary {config.primary} is no metric with an interval; give one's key, such as pauc")
    if config.sensitivity is not None and not 0 < config.sensitivity <= 1:
        raise InputError(f"--sensitivity must be in (0, 1], not {config.sensitivity}")
    for option, path in (("--out", config.out), ("--json", config.json)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no such folder; make it, or give another path")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.evaluate`."""
    prepare_process()
    run_program(lambda: evaluate(parse(EvaluateConfig, arguments(argv), "evaluate")))


if __name__ == "__main__":
    main()
