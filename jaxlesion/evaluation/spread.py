"""Gaps between subgroups, and how much a metric varies between hospitals beyond chance."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution
FEWEST = 3  # estimates that a spread is computed from


class Spread(NamedTuple):
    """Heterogeneity of k estimates."""

    mean: float
    """Random-effects mean."""
    tau: float
    """Standard deviation of the true values."""
    i2: float
    """Share of the estimates' variance that is not chance, in [0, 1] (Higgins and Thompson 2002)."""
    k: int


def heterogeneity(value: ArrayLike, error: ArrayLike) -> Spread:
    """Estimate the spread of true values behind k estimates (DerSimonian and Laird 1986).

    With weights w = 1 / error^2 and Q = sum w (value - weighted mean)^2: tau^2 = (Q - (k - 1)) / (sum w - sum w^2 /
    sum w), at least 0, and I^2 = (Q - (k - 1)) / Q, at least 0.

    Args:
        value: [k] estimates, at least two.
        error: [k] their standard errors, above 0.
    """
    value, weight = np.asarray(value, np.float64), 1 / np.asarray(error, np.float64) ** 2
    k, total = len(value), weight.sum()
    q = float(np.sum(weight * (value - np.sum(weight * value) / total) ** 2))
    tau2 = max(0.0, (q - (k - 1)) / (total - np.sum(weight**2) / total))
    random = 1 / (1 / weight + tau2)
    mean = float(np.sum(random * value) / random.sum())
    return Spread(mean, float(np.sqrt(tau2)), max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0, k)


def spread_over(found: pd.DataFrame, variable: str = "attribution", metric: str = "roc_auc") -> Spread | None:
    """Estimate the spread of a metric over the groups of a variable; None for fewer than three with intervals.

    Computed on the logit scale, with standard errors of interval's width / 3.92. `mean` is a share again; `tau` stays
    on the logit scale.

    Args:
        found: of `by_subgroup`.
        variable: whose groups are compared, such as hospitals.
        metric: name of its columns.
    """
    rows = found[(found["variable"] == variable) & (found["group"] != "unknown")]
    low, high, value = (rows[metric + end].to_numpy(np.float64) for end in ("_low", "_high", ""))
    usable = (low > 0) & (low < high) & (high < 1) & (value > 0) & (value < 1)
    if usable.sum() < FEWEST:
        return None
    error = (logit(high[usable]) - logit(low[usable])) / (2 * Z_95)
    spread = heterogeneity(logit(value[usable]), error)
    return spread._replace(mean=float(expit(spread.mean)))


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Combine the intervals of two independent estimates to one of a - b (MOVER: Zou and Donner 2008, equation 3).

    Lesions of one patient in both groups make it too wide, not too narrow, as long as they resemble each other.

    Args:
        a: estimate, lower and upper end.
        b: the same.
    """
    (one, low, high), (other, other_low, other_high) = a, b
    gap = one - other
    return (
        gap - float(np.hypot(one - low, other_high - other)),
        gap + float(np.hypot(high - one, other - other_low)),
    )


def gaps(found: pd.DataFrame, metric: str = "roc_auc") -> pd.DataFrame:
    """Compare each subgroup with the largest one of its variable.

    Args:
        found: of `by_subgroup`.
        metric: name of its columns.

    Returns:
        Columns `variable`, `group`, `reference` (the largest group), `gap` (group less reference), `low` and `high`:
        rows for the groups whose metric has an interval, of variables with two such groups or more.
    """
    usable = found[found[f"{metric}_low"].notna() & (found["group"] != "unknown")]
    records = []
    for variable, groups in usable.groupby("variable", sort=False):
        reference = groups.loc[groups["n"].idxmax()]
        for _, group in groups.drop(reference.name).iterrows():
            one, other = (tuple(row[metric + end] for end in ("", "_low", "_high")) for row in (group, reference))
            low, high = difference_interval(one, other)
            records.append((variable, group["group"], reference["group"], one[0] - other[0], low, high))
    return pd.DataFrame(records, columns=["variable", "group", "reference", "gap", "low", "high"])
