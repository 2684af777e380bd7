"""Metrics with intervals from Predictions tables: by fold, of all folds together, and as mean of folds."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import RunConfig, StackedConfig
from jaxlesion.core.files import without_nan
from jaxlesion.data.folds import validation_rows
from jaxlesion.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Resampled,
    Scores,
    Support,
    limits_of,
    resample,
)
from jaxlesion.evaluation.crossfold import FEWEST, mean_auc_spread, rank_within_folds
from jaxlesion.evaluation.intervals import FEW_MALIGNANT, FEWEST_MALIGNANT, Spread
from jaxlesion.evaluation.permutation import SWAPS
from jaxlesion.evaluation.registry import CHOSEN, Basis, has_interval, summary
from jaxlesion.evaluation.thresholds import Choose, at_sensitivity, best_f1, on_other_folds

RANK_NOTE = "means of ranks are no probabilities: figures at the threshold 0.5 mean nothing, calibrated ones do"
PRIOR_NOTE = "probabilities carry the prior of the sampled training rows, uncorrected"
AREAS = ("roc_auc", "pauc")  # whose mean over folds has an interval of its own, or none
POOLED, MEAN = "pooled", "mean of folds"


class Estimate(NamedTuple):
    """A metric's value and its 95 % interval; None for counts, for what resamples cannot tell, and without them."""

    value: float
    low: float | None = None
    high: float | None = None


Estimates = dict[str, Estimate]  # by the keys of `registry.summary`, at the chosen threshold after CHOSEN
Summary = dict[str, dict[str, Estimates]]  # by part (a fold, all together), then by set of rows


@dataclass(frozen=True)
class EvalOptions:
    """Options of an evaluation.

    Args:
        threshold: predictions of at least this are called malignant.
        sensitivity: the least sensitivity, on the other folds, of the threshold chosen there; None for the highest F1.
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the resamples.
        tick: called with the number of resamples done, and their total.
        primary: key of the metric of a comparison whose p is given as it is.
        swaps: of a comparison's p.
    """

    threshold: float = 0.5
    sensitivity: float | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    tick: Callable[[int, int], object] = lambda done, total: None
    primary: str = "roc_auc"
    swaps: int = SWAPS

    @property
    def choose(self) -> Choose:
        """The rule that chooses a threshold."""
        return best_f1 if self.sensitivity is None else partial(at_sensitivity, sensitivity=self.sensitivity)

    def ticker(self, total: int) -> Callable[[int], None]:
        """Return a callback that adds up the resamples just done and passes their sum to `tick`."""
        done = 0

        def tick(resamples: int) -> None:
            nonlocal done
            done += resamples
            self.tick(done, total)

        return tick


@dataclass(frozen=True)
class Measured:
    """Metrics of one set of rows: plain values, and [resamples] of those that have an interval."""

    values: dict[str, int | float]
    samples: dict[str, np.ndarray]
    support: Support | None = None

    def estimates(self) -> Estimates:
        """Return every value with its interval."""
        return {key: Estimate(value, *(self._limits(key) or ())) for key, value in self.values.items()}

    def _limits(self, key: str) -> tuple[float, float] | None:
        if key not in self.samples or self.support is None:
            return None
        return limits_of(key, self.values[key], self.samples[key], self.support)


def summarise(tables: Mapping[str, pd.DataFrame], name: str, options: EvalOptions = EvalOptions()) -> Summary:
    """Compute metrics by fold, `pooled` over the rows of several folds and as `mean of folds`.

    Thresholds are chosen for each fold on the other folds of the same table, and only where there are several.

    Args:
        tables: Predictions of the same folds on several sets of rows; each lesion once, its target known.
        name: of the only part where rows have no fold.
        options: of the evaluation.

    Raises:
        InputError: a lesion is there twice.
    """
    tables = {rows: with_thresholds(table, options) for rows, table in tables.items()}
    folds = folds_of(next(iter(tables.values())))
    parts = parts_of(tables, name)
    tick = options.ticker(options.resamples * len(tables) * len(parts))
    measured = {
        part: {rows: _measure(table, options, number, tick) for rows, table in by_rows.items()}
        for number, (part, by_rows) in enumerate(parts.items())
    }
    if len(folds) > 1:
        measured[MEAN] = {rows: _mean(*_of_folds(measured, parts, folds, rows)) for rows in tables}
    return {part: {rows: m.estimates() for rows, m in by_rows.items()} for part, by_rows in measured.items()}


def parts_of(tables: Mapping[str, pd.DataFrame], name: str) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the rows of each fold, and of all together unless there is one fold, by part and set of rows.

    Arguments are those of `summarise`.
    """
    folds = folds_of(next(iter(tables.values())))
    parts = {f"fold {k}": {rows: table[table["fold"] == k] for rows, table in tables.items()} for k in folds}
    return parts if len(folds) == 1 else parts | {POOLED if folds else name: dict(tables)}


def summarise_run(
    config: RunConfig, lesions: pd.DataFrame, table: pd.DataFrame, options: EvalOptions = EvalOptions()
) -> Summary:
    """Compute metrics by part, each on the `normalised` rows and the `whole fold`.

    Args:
        config: of the run; its sampling makes the normalised rows.
        lesions: of the run, with folds.
        table: out-of-fold predictions of one fold or more.
        options: of the evaluation.
    """
    return summarise(rows_of_run(config, lesions, table), "whole", options)


def rows_of_run(config: RunConfig, lesions: pd.DataFrame, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a run's out-of-fold predictions on its `normalised` rows, and on the `whole fold`."""
    rows = [validation_rows(lesions, k, config.sampling, config.data.seed) for k in folds_of(table)]
    sampled = table["isic_id"].isin(lesions["isic_id"].iloc[np.concatenate(rows)])
    return {"normalised": table[sampled], "whole fold": table}


def notes_on_prior(config: RunConfig) -> list[str]:
    """Return a sentence on predictions that do not carry the prior of all rows."""
    if config.keeps_prior:
        return []
    return [RANK_NOTE if isinstance(config, StackedConfig) else PRIOR_NOTE]


def notes_on(options: EvalOptions, table: pd.DataFrame, keys: Collection[str]) -> list[str]:
    """Return sentences on the thresholds and intervals of a table's metrics.

    Args:
        options: of the evaluation.
        table: Predictions.
        keys: of the metrics that are printed.
    """
    notes = [f"thresholded at {options.threshold:g}"]
    aim = "of the highest F1" if options.sensitivity is None else f"with a sensitivity of {options.sensitivity:g}"
    notes.append(
        f"chosen threshold: that {aim} on the other folds, so never chosen on the rows it is reported on"
        if any(key.startswith(CHOSEN) for key in keys)
        else "no threshold can be chosen: that takes out-of-fold predictions of two folds, both with malignant lesions"
    )
    if options.resamples:
        by = "patients" if resampled_by(table) == "patient" else "rows, since no patient is known to have two of them"
        notes.append(f"[{LEVEL:.0%} interval] by {options.resamples:,} draws of {by}")
        notes.append("intervals of ROC AUC, pAUC, accuracy and specificity are by leaving each of these out instead")
        notes += _on_few(malignant_patients(table), len(folds_of(table)))
    if len(folds_of(table)) > 1:
        notes.append("pooled ROC AUC and pAUC rank each row among the benign rows of its own fold")
    return notes


def _on_few(malignant: int, folds: int) -> list[str]:
    """Return the sentences on intervals that are withheld or uncertain since malignant patients are few."""
    least = f"no interval where fewer than {FEWEST_MALIGNANT} patients have a malignant lesion"
    notes = []
    if malignant < FEWEST_MALIGNANT:
        notes.append(f"{least}: here {malignant}")
    elif malignant < FEW_MALIGNANT:
        notes.append(
            f"only {malignant} patients have a malignant lesion: below {FEW_MALIGNANT} intervals are uncertain"
        )
    if folds > 1:
        notes.append(
            f"{least}, nor of the mean of folds' ROC AUC where a fold has fewer than {FEWEST}, nor of its pAUC, which "
            "is too high where folds have few"
        )
    return notes


def as_json(
    estimates: Mapping[str, Any],
    notes: Sequence[str],
    resamples: int,
    by: str,
    permutation: Mapping[str, Any] | None = None,
    omitted: Mapping[str, Any] | None = None,
) -> str:
    """Return metrics as JSON, with `notes`, a list of text, and `bootstrap`, null or `draws`, `by` and `level`.

    `bootstrap` of a `Summary` has `omitted` too, the numbers of `omitted_replicates`.

    `figures` is a tree. Of a `Summary` it is by part (`fold k`, `pooled`, `mean of folds`, or the name of a table
    without folds), by set of rows (`normalised`, `whole fold` or `all rows`), and by key (those of `registry.summary`,
    and after `chosen_` those at the threshold chosen on the other folds); then come `value`, `low` and `high`. Of
    comparisons it is by key alone, then `a`, `b`, `difference`, `low`, `high`, `p` and `p_holm`, which the primary
    metric lacks. Undefined values and missing intervals are null.

    Args:
        estimates: such a tree of dictionaries, with named tuples for leaves.
        notes: sentences for the reader.
        resamples: number of resamples; 0 for no intervals.
        by: the unit drawn, patient or row.
        permutation: of comparisons, how p was found: `draws` and `primary`.
        omitted: replicates that the jackknife omits; None where there is no jackknife.
    """
    bootstrap = {"draws": resamples, "by": by, "level": LEVEL} if resamples else None
    if bootstrap and omitted is not None:
        bootstrap["omitted"] = omitted
    content = {"notes": list(notes), "bootstrap": bootstrap}
    content |= {} if permutation is None else {"permutation": dict(permutation)}
    content |= {"figures": without_nan(_fields(estimates))}
    return json.dumps(content, indent=2) + "\n"


def _fields(tree: Any) -> dict[str, Any]:
    if isinstance(tree, dict):
        return {name: _fields(inner) for name, inner in tree.items()}
    return tree._asdict()


def folds_of(table: pd.DataFrame) -> list[int]:
    """Return the folds of a Predictions table, ascending; none where a row has no fold."""
    return [] if table["fold"].isna().any() else sorted(int(k) for k in table["fold"].unique())


def patients_of(table: pd.DataFrame) -> np.ndarray:
    """Return the patient [n] of each row as a number, in the order of the names; each unknown one is another."""
    names = table["patient_id"].astype("string").fillna("row " + table["isic_id"].astype("string"))
    return pd.factorize(names, sort=True)[0]


def resampled_by(table: pd.DataFrame) -> Literal["patient", "row"]:
    """Return the unit that a bootstrap of this table draws: rows, where no patient is known to have two of them."""
    return "patient" if table["patient_id"].dropna().duplicated().any() else "row"


def with_thresholds(table: pd.DataFrame, options: EvalOptions, name: str = "the table") -> pd.DataFrame:
    """Add `chosen`, the threshold of each row that was chosen on the other folds, nan where it cannot be.

    Raises:
        InputError: a lesion is there twice; the message begins with `name`.
    """
    if (twice := table["isic_id"].duplicated()).any():
        first = table["isic_id"][twice].iloc[0]
        raise InputError(f"{name}: {first} is there for two models; keep the rows of one, or one row for each lesion")
    if len(folds_of(table)) < 2:
        return table.assign(chosen=np.nan)
    columns = (table[column].to_numpy(np.float64) for column in ("target", "prediction", "fold"))
    return table.assign(chosen=on_other_folds(*columns, choose=options.choose))


def plain_values(table: pd.DataFrame, options: EvalOptions) -> dict[str, int | float]:
    """Return the metrics of a table with thresholds by key, without intervals."""
    columns = (_target(table), table["prediction"].to_numpy(), thresholds_of(table, options), _rank(table))
    return summary(*columns, _probability(table))


def resampled_values(
    tables: Sequence[pd.DataFrame],
    patient: np.ndarray,
    options: EvalOptions,
    stream: int,
    tick: Callable[[int], object],
) -> Resampled:
    """Return [resamples] of the metrics of one table with thresholds, or of several on the same rows.

    Args:
        tables: Predictions with thresholds.
        patient: [n] of each row.
        options: of the evaluation; at least one resample.
        stream: number of the random stream; parts of another number are drawn independently.
        tick: called with the number of resamples just done.
    """
    scores = [
        Scores(table["prediction"].to_numpy(), thresholds_of(table, options), _rank(table), _probability(table))
        for table in tables
    ]
    seed = options.seed, stream
    return resample(_target(tables[0]), scores, patient, resamples=options.resamples, seed=seed, tick=tick)


def shared_keys(values: Sequence[Collection[str]]) -> list[str]:
    """Return the keys of metrics that have an interval and are in all of several sets."""
    return [key for key in values[0] if has_interval(key) and all(key in other for other in values)]


def _measure(table: pd.DataFrame, options: EvalOptions, stream: int, tick: Callable[[int], object]) -> Measured:
    values = plain_values(table, options)
    if not options.resamples:
        return Measured(values, {})
    found = resampled_values([table], patients_of(table), options, stream, tick)
    return Measured(values, found.samples[0], found.support[0])


def _of_folds(
    measured: Mapping[str, Mapping[str, Measured]],
    parts: Mapping[str, Mapping[str, pd.DataFrame]],
    folds: Sequence[int],
    rows: str,
) -> tuple[list[Measured], list[pd.DataFrame]]:
    """Return metrics and tables of all folds, for one set of rows."""
    names = [f"fold {k}" for k in folds]
    return [measured[name][rows] for name in names], [parts[name][rows] for name in names]


def _mean(folds: Sequence[Measured], tables: Sequence[pd.DataFrame]) -> Measured:
    """Return the mean of all shared metrics, and of their resamples, which folds draw independently.

    The mean of pAUC has no interval: a fold's is above the truth where malignant rows are few, and so is their mean.
    """
    shared = shared_keys([fold.values for fold in folds])
    supports = [fold.support for fold in folds if fold.support is not None]
    support = None
    if supports:
        columns = [(_target(table), table["prediction"].to_numpy(), patients_of(table)) for table in tables]
        spreads = {"roc_auc": mean_auc_spread(columns), "pauc": Spread(np.nan, 0)}
        spreads |= _mean_spreads([one.spreads for one in supports])
        prefixes = [prefix for prefix in supports[0].resting if all(prefix in one.resting for one in supports)]
        support = Support({prefix: _summed([one.resting[prefix] for one in supports]) for prefix in prefixes}, spreads)
    return Measured(
        {key: float(np.mean([fold.values[key] for fold in folds])) for key in shared},
        {key: np.mean([fold.samples[key] for fold in folds], 0) for key in shared if key in folds[0].samples},
        support,
    )


def _mean_spreads(folds: Sequence[Mapping[str, Spread]]) -> dict[str, Spread]:
    """Return the spreads of means of shares over folds, whose variances add up (Satterthwaite's degrees)."""
    shared = [key for key in folds[0] if key not in AREAS and all(key in fold for fold in folds)]
    found = {}
    for key in shared:
        variance = np.array([fold[key].error ** 2 for fold in folds])
        each = np.array([max(fold[key].degrees, 1) for fold in folds])
        degrees = variance.sum() ** 2 / (variance**2 / each).sum() if variance.sum() > 0 else float(each.sum())
        found[key] = Spread(float(np.sqrt(variance.sum())) / len(folds), float(degrees))
    return found


def _summed(counts: Sequence[Mapping[Basis, int]]) -> dict[Basis, int]:
    return {basis: sum(one[basis] for one in counts) for basis in counts[0]}


def _target(table: pd.DataFrame) -> np.ndarray:
    return table["target"].to_numpy(np.int8)


def _rank(table: pd.DataFrame) -> np.ndarray | None:
    """Return ranks within folds [n], where rows of several folds are pooled; else None."""
    if len(folds_of(table)) < 2:
        return None
    return rank_within_folds(*(table[column].to_numpy(np.float64) for column in ("target", "prediction", "fold")))


def _probability(table: pd.DataFrame) -> np.ndarray | None:
    """Return `probability` [n], what metrics of probabilities take in place of predictions; None without it."""
    return table["probability"].to_numpy(np.float64) if "probability" in table else None


def malignant_patients(table: pd.DataFrame) -> int:
    """Return the number of patients with a malignant row; each unknown one is another."""
    return len(np.unique(patients_of(table)[_target(table) == 1]))


def thresholds_of(table: pd.DataFrame, options: EvalOptions) -> dict[str, float | np.ndarray]:
    """Return the thresholds of a table by prefix of their metrics' keys."""
    chosen = table["chosen"].to_numpy()
    return {"": options.threshold} | ({} if np.isnan(chosen).any() else {CHOSEN: chosen})
