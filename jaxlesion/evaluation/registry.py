"""The metrics that are reported: their keys, labels, and the tables they are printed in.

A new metric is a function in `metrics` and a line here. The order of the lines is that of every table and of the JSON.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxlesion.evaluation import metrics
from jaxlesion.evaluation.columns import check_columns, check_probability, check_threshold
from jaxlesion.evaluation.metrics import CLASSES
from jaxlesion.evaluation.statistics import Confusion, Rows, Statistics

CHOSEN = "chosen_"  # begins the keys of metrics at the threshold that was chosen on the other folds
ATTAINED = (90, 95)  # percent of specificity that a sensitivity is given at, and the reverse


class Table(Flag):
    """Tables that a metric is printed in."""

    NONE = 0
    CONSOLE = auto()
    """In `evaluate` and the report's full table."""
    CHOSEN = auto()
    """There too, at the chosen threshold."""
    KNN = auto()
    """In the table of nearest neighbours."""
    CALIBRATION = auto()
    """In the report's table of predictions before and after calibration."""


ALL = Table.CONSOLE | Table.CHOSEN | Table.KNN
BOTH = Table.CONSOLE | Table.CHOSEN


Basis = Literal["malignant", "benign", "called malignant", "called benign", "all"]


@dataclass(frozen=True)
class Metric:
    """A reported metric.

    Args:
        key: its name in JSON.
        label: its name in tables.
        formula: [r] values, of `Statistics` or, at a threshold, of a `Confusion`.
        tables: the tables it is printed in.
        headline: its heading in the report's tables of folds; without one it is left out there.
        chosen_headline: the same at the chosen threshold.
        count: whether it is a whole number.
        of_rows: whether it is known without any prediction.
        rests_on: the units whose number says how sure it is: with a malignant row, with a benign one, with a row
            called malignant or benign, or all.
        best: the upper end of its range; infinite for none.
        of_ranks: whether it takes ranks within folds, where rows of several folds are pooled.
        left_out: whether its interval is by leaving each unit out, not by percentiles of resamples.
        corrected: whether its interval is by percentiles that are corrected for bias, with the degrees of freedom of
            leaving each unit out.
    """

    key: str
    label: str
    formula: Callable[..., np.ndarray]
    tables: Table = Table.CONSOLE
    headline: str = ""
    chosen_headline: str = ""
    count: bool = False
    of_rows: bool = False
    rests_on: Basis = "all"
    best: float = 1.0
    of_ranks: bool = False
    left_out: bool = False
    corrected: bool = False

    @property
    def of_order(self) -> bool:
        """Whether, without a threshold, it depends on the order of predictions alone."""
        return self.rests_on == "malignant"

    @property
    def of_probability(self) -> bool:
        """Whether, without a threshold, it depends on predictions as probabilities."""
        return self.interval and not self.of_order and self in OF_PREDICTIONS

    @property
    def interval(self) -> bool:
        """Return whether it has an interval and a mean over folds."""
        return not (self.count or self.of_rows)


OF_PREDICTIONS = (
    Metric("n", "rows", lambda s: s.n, headline="rows", count=True, of_rows=True),
    Metric("positives", "malignant", lambda s: s.positives, headline="malignant", count=True, of_rows=True),
    Metric("positive_to_negative", "malignant : benign", metrics.prevalence_odds, of_rows=True),
    Metric(
        "roc_auc",
        "ROC AUC",
        metrics.roc_auc.weighted,
        Table.CONSOLE | Table.KNN,
        headline="ROC AUC",
        rests_on="malignant",
        of_ranks=True,
        left_out=True,
    ),
    Metric(
        "pauc",
        "pAUC above 80 % TPR",
        metrics.pauc_above_tpr.weighted,
        Table.CONSOLE | Table.KNN,
        headline="pAUC",
        rests_on="malignant",
        best=1 - metrics.MIN_TPR,
        of_ranks=True,
        left_out=True,
    ),
    Metric(
        "pr_auc",
        "PR AUC",
        metrics.pr_auc.weighted,
        Table.CONSOLE | Table.KNN,
        headline="PR AUC",
        rests_on="malignant",
        corrected=True,
    ),
    *(
        Metric(
            f"sensitivity_at_{percent}_specificity",
            f"sens. at {percent} % spec.",
            partial(metrics.sensitivity_at_specificity.weighted, specificity=percent / 100),
            headline="sens. at 90 % spec." if percent == 90 else "",
            rests_on="malignant",
        )
        for percent in ATTAINED
    ),
    *(
        Metric(
            f"specificity_at_{percent}_sensitivity",
            f"spec. at {percent} % sens.",
            partial(metrics.specificity_at_sensitivity.weighted, sensitivity=percent / 100),
            rests_on="malignant",
        )
        for percent in ATTAINED
    ),
    Metric("log_loss", "log loss", metrics.log_loss.weighted, Table.CONSOLE | Table.CALIBRATION, best=np.inf),
    Metric("brier", "Brier score", metrics.brier_score.weighted, Table.CONSOLE | Table.CALIBRATION),
    Metric(
        "ece",
        "calibration error",
        metrics.expected_calibration_error.weighted,
        Table.CONSOLE | Table.CALIBRATION,
    ),
)

RATES = {"precision": ("precision", metrics.precision), "recall": ("recall", metrics.recall), "f1": ("F1", metrics.f1)}


def _of_class(of: str, name: str) -> Metric:
    """Return a rate of one class."""
    (label, rate), malignant = RATES[name], of == "malignant"
    headlines = ("F1 at 0.5", "F1 at the chosen threshold") if malignant and name == "f1" else ("", "")
    basis: Basis = {"precision": f"called {of}", "recall": of, "f1": of if malignant else "all"}[name]
    tables = ALL if malignant else BOTH
    formula, left_out = partial(rate, of=of), (of, name) == ("benign", "recall")
    return Metric(f"{of}_{name}", f"{of} {label}", formula, tables, *headlines, rests_on=basis, left_out=left_out)


def _mean(kind: str, name: str) -> Metric:
    """Return the macro or weighted mean of a rate."""
    (label, rate), mean = RATES[name], {"macro": metrics.macro_mean, "weighted": metrics.weighted_mean}[kind]
    tables = BOTH if (kind, name) == ("macro", "f1") else Table.CONSOLE
    basis: Basis = "malignant" if kind == "macro" else "all"
    formula, left_out = partial(mean, rate=rate), (kind, name) == ("weighted", "recall")
    return Metric(f"{kind}_{name}", f"{kind} {label}", formula, tables, rests_on=basis, left_out=left_out)


AT_THRESHOLD = (
    Metric("threshold", "threshold", lambda c: c.threshold, BOTH, chosen_headline="chosen threshold", of_rows=True),
    Metric("tn", "", lambda c: c.tn, Table.NONE, count=True),
    Metric("fp", "", lambda c: c.fp, Table.NONE, count=True),
    Metric("fn", "", lambda c: c.fn, Table.NONE, count=True),
    Metric("tp", "", lambda c: c.tp, Table.NONE, count=True),
    Metric("predicted_positives", "called malignant", lambda c: c.tp + c.fp, ALL, count=True),
    Metric("benign_support", "", lambda c: c.tn + c.fp, Table.NONE, count=True, of_rows=True),
    Metric("malignant_support", "", lambda c: c.fn + c.tp, Table.NONE, count=True, of_rows=True),
    Metric("accuracy", "accuracy", metrics.accuracy, BOTH, left_out=True),
    Metric("hamming", "Hamming loss", metrics.hamming, left_out=True),
    Metric("specificity", "", metrics.specificity, Table.NONE, rests_on="benign", left_out=True),
    *(_of_class(of, name) for of in CLASSES for name in RATES),
    *(_mean(kind, name) for kind in ("macro", "weighted") for name in RATES),
)


def metric_of(key: str) -> Metric:
    """Return the metric of a key, which may begin with CHOSEN."""
    return next(m for m in OF_PREDICTIONS + AT_THRESHOLD if m.key == key.removeprefix(CHOSEN))


def has_interval(key: str) -> bool:
    """Return whether the metric of a key, which may begin with CHOSEN, has an interval."""
    return any(m.interval and m.key == key.removeprefix(CHOSEN) for m in OF_PREDICTIONS + AT_THRESHOLD)


def printed(table: Table) -> tuple[tuple[str, str], ...]:
    """Return label and key of a table's metrics; those at the chosen threshold come last, under that threshold."""
    shown = [(m.label, m.key) for m in OF_PREDICTIONS + AT_THRESHOLD if table in m.tables]
    if table == Table.CONSOLE:
        labels = {"threshold": "chosen threshold"}
        shown += [(labels.get(m.key, m.label), CHOSEN + m.key) for m in AT_THRESHOLD if Table.CHOSEN in m.tables]
    return tuple(shown)


def headlines() -> dict[str, str]:
    """Return the headings of the report's tables of folds by key."""
    found = {m.key: m.headline for m in OF_PREDICTIONS + AT_THRESHOLD if m.headline}
    return found | {CHOSEN + m.key: m.chosen_headline for m in AT_THRESHOLD if m.chosen_headline}


def scores(
    statistics: Statistics, ranked: Statistics | None = None, probable: Statistics | None = None
) -> dict[str, np.ndarray]:
    """Return [r] values of the metrics that have an interval and no threshold, by key.

    Args:
        statistics: of the predictions.
        ranked: of ranks within folds, for the metrics that take these; None for those of the predictions.
        probable: of calibrated probabilities, for the metrics of probabilities; None for those of the predictions.
    """
    of = _chooser(statistics, ranked, probable)
    return {m.key: m.formula(of(m)) for m in OF_PREDICTIONS if m.interval}


def _chooser(
    statistics: Statistics, ranked: Statistics | None, probable: Statistics | None
) -> Callable[[Metric], Statistics]:
    """Return a function that chooses what a metric is computed from."""

    def of(metric: Metric) -> Statistics:
        special = ranked if metric.of_ranks else None if metric.of_order else probable
        return special or statistics

    return of


def left_out(statistics: Statistics, ranked: Statistics | None = None) -> dict[str, np.ndarray]:
    """Return [r] values of the metrics whose interval takes leaving units out, by key; arguments as of `scores`."""
    ranked = ranked or statistics
    needed = [m for m in OF_PREDICTIONS if m.left_out or m.corrected]
    found = {m.key: m.formula(ranked if m.of_ranks else statistics) for m in needed}
    for prefix, confusion in statistics.confusions.items():
        found |= {prefix + m.key: m.formula(confusion._replace(undefined=np.nan)) for m in AT_THRESHOLD if m.left_out}
    return found


def rates(tn: ArrayLike, fp: ArrayLike, fn: ArrayLike, tp: ArrayLike) -> dict[str, np.ndarray]:
    """Return the metrics that have an interval and a threshold by key, of counts that are numbers or of one shape.

    An undefined rate is nan here.
    """
    confusion = Confusion(*(np.asarray(count, np.float64) for count in (tn, fp, fn, tp)), undefined=np.nan)
    return {m.key: m.formula(confusion) for m in AT_THRESHOLD if m.interval}


def classification(
    target: ArrayLike, prediction: ArrayLike, threshold: ArrayLike = 0.5, prefix: str = ""
) -> dict[str, int | float]:
    """Return all metrics that depend on a threshold, by key.

    Args:
        target: [n] 0 or 1.
        prediction: [n].
        threshold: one number, or one for each row [n]; where they differ, metrics of the rows alone are left out.
        prefix: of the keys.

    Raises:
        InputError: columns that `check_columns` refuses, or a threshold that is not finite.
    """
    check_threshold(threshold)
    rows = Rows.single(*check_columns(target, prediction), {prefix: threshold})
    return _at_thresholds(rows.unweighted().confusions)


def summary(
    target: ArrayLike,
    prediction: ArrayLike,
    threshold: ArrayLike | Mapping[str, ArrayLike] = 0.5,
    rank: ArrayLike | None = None,
    probability: ArrayLike | None = None,
) -> dict[str, int | float]:
    """Return all metrics of one set of predictions by key, in the order of this module: counts int, all others float.

    Args:
        target: [n] 0 or 1.
        prediction: [n] in [0, 1].
        threshold: see `classification`; or several by prefix of their metrics' keys.
        rank: [n] ranks within folds, for the metrics that take these; None for the predictions.
        probability: [n] calibrated, for the metrics of probabilities; None for the predictions.

    Raises:
        InputError: columns that `check_probability` refuses, or a threshold that is not finite.
    """
    thresholds = threshold if isinstance(threshold, Mapping) else {"": threshold}
    for one in thresholds.values():
        check_threshold(one)
    statistics = Rows.single(*check_probability(target, prediction), thresholds).unweighted()
    ranked = None if rank is None else Rows.single(*check_columns(target, rank)).unweighted()
    probable = None if probability is None else Rows.single(*check_probability(target, probability)).unweighted()
    of = _chooser(statistics, ranked, probable)
    found = {m.key: _plain(m, m.formula(of(m))) for m in OF_PREDICTIONS}
    return found | _at_thresholds(statistics.confusions)


def values_of(table: Table, target: ArrayLike, prediction: ArrayLike) -> dict[str, int | float]:
    """Return the metrics of a table that have no threshold, by label.

    Raises:
        InputError: columns that `check_probability` refuses.
    """
    statistics = Rows.single(*check_probability(target, prediction)).unweighted()
    return {m.label: _plain(m, m.formula(statistics)) for m in OF_PREDICTIONS if table in m.tables}


def _at_thresholds(confusions: Mapping[str, Confusion]) -> dict[str, int | float]:
    return {
        prefix + m.key: _plain(m, m.formula(confusion))
        for prefix, confusion in confusions.items()
        for m in AT_THRESHOLD
        if not (m.of_rows and np.isnan(confusion.threshold))
    }


def _plain(metric: Metric, value: ArrayLike) -> int | float:
    """Return the only value as a number that JSON takes."""
    only = np.ravel(value)[0]
    return int(only) if metric.count else float(only)
