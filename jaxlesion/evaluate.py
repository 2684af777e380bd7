"""python -m jaxlesion.evaluate: metrics from the checkpoints of a run, or from a table of predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.predictions import write_predictions
from jaxlesion.evaluation.bootstrap import RESAMPLES
from jaxlesion.evaluation.clinic import Clinic, ClinicOptions, clinic, grids, with_clinic, without_uncorrected
from jaxlesion.evaluation.compare import Comparison, compare, notes_on_p
from jaxlesion.evaluation.omitted import notes_on_omitted, omitted_replicates
from jaxlesion.evaluation.registry import has_interval
from jaxlesion.evaluation.spread import gaps, spread_over
from jaxlesion.evaluation.subgroups import as_text, by_subgroup, shortened
from jaxlesion.evaluation.summary import (
    POOLED,
    EvalOptions,
    Summary,
    as_json,
    notes_on,
    resampled_by,
    summarise,
    with_thresholds,
)
from jaxlesion.inference.labelled import Labelled, LabelledOptions, open_labelled, read_labelled
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import print_comparison, print_grid, print_summary
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.outputs import check_outputs
from jaxlesion.ui.progress import ProgressBar, progress
from jaxlesion.ui.terminal import results_to_stderr, show


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
    """Also by sex, age, skin tone, site, hospital, kind of tile and size, and sensitivity by diagnosis, where known."""
    top_k: int = 15
    """Lesions that are looked at in each patient, for the share of malignant ones among them."""
    prevalence: float | None = None
    """Weight benign rows to this share of malignant lesions in calibration, decision curve and calls."""
    out: Path | None = None
    """Write the predictions there, as CSV; - is standard output, and tables go to standard error."""
    json: Path | None = None
    """Write the metrics there, as JSON; - likewise."""


def evaluate(config: EvaluateConfig) -> Summary | dict[str, Comparison]:
    """Print the metrics and return them; write them, as `as_json` says, and the predictions if asked to.

    Raises:
        InputError: not one of a run, a table and two tables; an option out of range; or whatever is wrong with them.
    """
    _check(config)
    with results_to_stderr(check_outputs({"--out": config.out, "--json": config.json}, config)):
        return _evaluate(config)


def _evaluate(config: EvaluateConfig) -> Summary | dict[str, Comparison]:
    options = EvalOptions(config.threshold, config.sensitivity, config.bootstrap, primary=config.primary)
    if config.compare is not None:
        return _compare(config, options)
    source = open_labelled(config, metadata=config.subgroups, progress=ProgressBar)
    with progress("bootstrap") as tick:
        summary = summarise(source.rows, source.name, replace(options, tick=tick))
    if config.run is not None:
        summary = without_uncorrected(summary, Run.open(config.run).config)
    clinical = _clinic(config, source, options)
    pooled = summary.get(POOLED, {}).get(next(iter(source.rows)), ())
    omitted = omitted_replicates(source.rows, source.name) if config.bootstrap else {}
    notes = [*notes_on(options, source.table, pooled), *notes_on_omitted(omitted), *source.notes, *clinical.notes]
    print_summary(summary)
    for grid in grids(clinical):
        print_grid(grid)
    for note in notes:
        show(note)
    if config.subgroups:
        found = by_subgroup(source.table, source.lesions, config.threshold, resamples=config.bootstrap)
        show(as_text(found))
        for _, row in gaps(found).iterrows():
            show(
                f"{row['variable']}: ROC AUC of {shortened(row['group'])} less that of {shortened(row['reference'])}: "
                f"{row['gap']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            )
        if (spread := spread_over(found)) is not None:
            show(
                f"hospitals: ROC AUC {spread.mean:.3f} on average over {spread.k}, spread tau = {spread.tau:.2f} on "
                f"the logit scale, I^2 = {spread.i2:.0%}"
            )
    if config.out is not None:
        write_predictions(config.out, source.table)
    if config.json is not None:
        text = as_json(summary, notes, config.bootstrap, resampled_by(source.table), omitted=omitted)
        write_atomic(config.json, with_clinic(text, clinical))
    return summary


def _clinic(config: EvaluateConfig, source: Labelled, options: EvalOptions) -> Clinic:
    wanted = ClinicOptions(config.top_k, config.prevalence, config.threshold, config.bootstrap)
    return clinic(with_thresholds(source.table, options), source.probabilities, wanted)


def _compare(config: EvaluateConfig, options: EvalOptions) -> dict[str, Comparison]:
    names = [str(path) for path in config.compare]
    said: list[str] = []
    a, b = (read_labelled(config, path, said.append) for path in config.compare)
    with progress("bootstrap") as tick:
        comparisons = compare(a, b, names, replace(options, tick=tick))
    by = a if resampled_by(a) == "patient" else b
    notes = [*said, *notes_on(options, by, comparisons), *notes_on_p(a, b, resampled_by(by), options)]
    print_comparison(f"a: {names[0]}\nb: {names[1]}\n{len(a):,} rows", ("a", "b"), comparisons)
    for note in notes:
        show(note)
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
    if (
        config.subgroups
        and config.predictions is not None
        and not (config.metadata or config.data_dir or config.data.table)
    ):
        raise InputError("--subgroups needs the metadata: give --metadata a CSV, or --data-dir")
    if config.bootstrap < 0:
        raise InputError(f"--bootstrap is a number of draws, 0 for none, not {config.bootstrap}")
    if config.top_k < 1:
        raise InputError(f"--top-k is a number of lesions from 1 on, not {config.top_k}")
    if config.prevalence is not None and not 0 < config.prevalence < 1:
        raise InputError(f"--prevalence must be between 0 and 1, not {config.prevalence}")
    if not has_interval(config.primary):
        raise InputError(f"--primary {config.primary} is no metric with an interval; give one's key, such as pauc")
    if config.sensitivity is not None and not 0 < config.sensitivity <= 1:
        raise InputError(f"--sensitivity must be in (0, 1], not {config.sensitivity}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.evaluate`."""
    prepare_process()
    run_program(lambda: evaluate(parse(EvaluateConfig, arguments(argv), "evaluate")))


if __name__ == "__main__":
    main()
