"""The limits of a metric: by leaving each unit out, or by percentiles of resamples.

- **Areas under the ROC curve, and shares of rows or benign rows called right.** Each unit is left out once. The
  variance of the n values t_i is (n - 1) / n sum(t_i - mean)^2 (Efron and Stein 1981). The interval is formed on the
  scale g = logit(t / m), m the largest value, where se(g) = se(t) m / (t (m - t)), with Student's t. Its degrees of
  freedom are those of the variance (`jackknife.degrees`), at most m G and G - 1, G the units the metric rests on.
  For pAUC, m = .2: it depends on the fifth of the malignant patients that are ranked lowest. G - 1 are too many.
- **PR AUC.** Percentiles that are corrected for bias (Efron 1981, BC). The tails are those of others for G = degrees
  of freedom + 1: where few patients have most of the lesions, precision depends on few, however many are malignant.
- **Others.** Percentiles, each tail at Phi(-sqrt(G / (G - 1)) t_{.975, G - 1}) in place of .025, G the units the metric
  rests on (Hesterberg 2015, "What teachers should know about the bootstrap", section 3.2, expanded percentiles).
- **Edges.** Resamples cannot show an error that was never observed. At 0 the interval is [0, 1 - .025^(1/G)], at the
  largest value m it is [m .025^(1/G), m] (Clopper and Pearson 1934, for G units without an error).
- **Few malignant units.** Below 10, only metrics of benign rows alone have an interval.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, t

from jaxlesion.evaluation.registry import Basis, metric_of
from jaxlesion.evaluation.statistics import Rows

LEVEL = 0.95
MOST_UNDEFINED = 0.05  # share of resamples that may lack a class before an interval is withheld
FEWEST_MALIGNANT = 10  # units with a malignant row, below which intervals are withheld
FEW_MALIGNANT = 40  # below which a note warns


class Spread(NamedTuple):
    """Standard error of a metric, the degrees of freedom it has, and the number of replicates that were omitted."""

    error: float
    degrees: float
    omitted: int = 0


def tail(units: float, level: float = LEVEL) -> float:
    """Return the share of resamples beyond each limit for a metric that rests on so many units, at least 2."""
    wide = math.sqrt(units / (units - 1)) * t.ppf((1 + level) / 2, units - 1)
    return float(norm.cdf(-wide))


def percentiles(sample: np.ndarray, units: float = math.inf, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of a metric's [resamples]; None where over 5 % of them are undefined, or below 2 units.

    The limits are the values of rank (1 + resamples) a from below and above, interpolated if not whole.

    Args:
        sample: values, nan where undefined.
        units: number of units that the metric rests on, which widens the tails; infinite for plain percentiles.
        level: of the interval.
    """
    defined = sample[~np.isnan(sample)]
    if len(defined) < (1 - MOST_UNDEFINED) * len(sample) or units < 2:
        return None
    a = (1 - level) / 2 if math.isinf(units) else tail(units, level)
    low, high = np.quantile(defined, [a, 1 - a], method="weibull")
    return float(low), float(high)


def corrected(value: float, sample: np.ndarray, units: float) -> tuple[float, float] | None:
    """Return the bias-corrected percentiles of a metric's [resamples]; None as of `percentiles`.

    With z0 the normal quantile of the share of resamples below the value, ties half, the limits are the quantiles at
    Phi(2 z0 -+ z), Phi(-z) being the tail (Efron 1981, Canadian Journal of Statistics 9).
    """
    defined = sample[~np.isnan(sample)]
    if percentiles(sample, units) is None:
        return None
    below = (np.mean(defined < value) + np.mean(defined <= value)) / 2
    least = 1 / (len(defined) + 1)  # the rank of the lowest of all
    twice = 2 * norm.ppf(np.clip(below, least, 1 - least))
    ends = norm.cdf(twice + norm.ppf([tail(units), 1 - tail(units)]))
    low, high = np.quantile(defined, np.clip(ends, least, 1 - least), method="weibull")
    return float(low), float(high)


def at_edge(value: float, best: float, units: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of a metric that is 0 or `best`, its largest value; None for any other value."""
    if units < 1 or not math.isfinite(best):
        return None
    share = ((1 - level) / 2) ** (1 / units)
    if value == 0:
        return 0.0, best * (1 - share)
    return (best * share, best) if math.isclose(value, best, rel_tol=1e-12) else None


def by_logit(value: float, spread: Spread, best: float, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of a value strictly between 0 and `best`; None where its error is unknown."""
    if spread.degrees < 1 or math.isnan(spread.error):
        return None
    half = t.ppf((1 + level) / 2, spread.degrees) * spread.error * best / (value * (best - value))
    low, high = best * expit(logit(value / best) + np.array([-half, half]))
    return float(low), float(high)


def limits(
    key: str, value: float, sample: np.ndarray, resting: Mapping[Basis, int], spread: Spread | None = None
) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric; None where it is withheld.

    Args:
        key: of the metric.
        value: of it.
        sample: [resamples] of it.
        resting: number of units by what a metric may rest on.
        spread: by leaving units out; None for plain percentiles.
    """
    metric = metric_of(key)
    units = resting[metric.rests_on]
    if withheld(key, resting) or math.isnan(value):
        return None
    if (edge := at_edge(value, metric.best, units)) is not None:
        return edge
    if spread is None:
        return percentiles(sample, units)
    if metric.corrected:
        return corrected(value, sample, min(units, max(2.0, spread.degrees + 1)))
    degrees = min(spread.degrees, units - 1, metric.best * units)
    return by_logit(value, spread._replace(degrees=degrees), metric.best)


def withheld(key: str, resting: Mapping[Basis, int]) -> bool:
    """Return whether malignant units are too few for an interval of a metric."""
    return resting["malignant"] < FEWEST_MALIGNANT and metric_of(key).rests_on != "benign"


def resting_on(rows: Rows, prefix: str | None = None) -> dict[Basis, int]:
    """Return the number of units that metrics may rest on, those with calls at the threshold of a prefix."""
    counts = {"all": np.ones(rows.clusters), "benign": rows.classes[:, 0], "malignant": rows.classes[:, 1]}
    if prefix is not None:
        at = 2 * list(rows.thresholds).index(prefix)
        called = rows.called[:, at : at + 2].sum(1)
        counts |= {"called malignant": called, "called benign": rows.classes.sum(1) - called}
    return {basis: int(rows.units[count > 0].sum()) for basis, count in counts.items()}
