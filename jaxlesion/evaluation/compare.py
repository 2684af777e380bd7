"""Differences between the metrics of two Predictions tables of the same lesions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.predictions import CALIBRATED
from jaxlesion.evaluation.bootstrap import Resampled, difference
from jaxlesion.evaluation.intervals import withheld
from jaxlesion.evaluation.permutation import Model, holm, mid_ranks, swap_p
from jaxlesion.evaluation.registry import metric_of
from jaxlesion.evaluation.summary import (
    EvalOptions,
    folds_of,
    patients_of,
    plain_values,
    resampled_values,
    shared_keys,
    thresholds_of,
    with_thresholds,
)

P_NOTE = (
    "p: two-sided, by {swaps:,} swaps of the two models' {swapped} of {by}; it is about these two trained networks, "
    "not about training them again"
)
PRIMARY_NOTE = (
    "p is given as it is for the primary metric, {label} (--primary); all others have Holm's for their number"
)
OF_CALIBRATED = "Brier score, log loss and calibration error are of the column calibrated"
NO_CALIBRATED = (
    "Brier score, log loss and calibration error are of predictions as they are and have no p: "
    "both tables would need the column calibrated, as oof.csv of a run has it"
)


class Comparison(NamedTuple):
    """A metric of two tables, their difference a - b with its 95 % interval, and the two-sided p.

    `p_holm` is p adjusted for all metrics but the primary one, which has none.
    """

    a: float
    b: float
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None


def compare(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str], options: EvalOptions) -> dict[str, Comparison]:
    """Compare every metric that has an interval between two Predictions tables of the same lesions.

    Both are resampled together: each resample takes the same patients from both. p is that of `permutation`. Metrics
    of probabilities are of `calibrated` where both tables have it in all rows; otherwise they have no p.

    Args:
        a: Predictions, targets known.
        b: the same.
        names: of both, for messages.
        options: of the evaluation.

    Raises:
        InputError: a lesion twice, or the first lesion that only one table has or that they do not agree on; or a
            primary metric that is not compared or can have no p.
    """
    a, b = _aligned(a, b, names)
    calibrated = _calibrated(a, b)
    if calibrated:
        a, b = (table.assign(probability=table[CALIBRATED]) for table in (a, b))
    scored = [with_thresholds(table, options, name) for table, name in zip((a, b), names, strict=True)]
    values = [plain_values(table, options) for table in scored]
    keys = shared_keys(values)
    if options.primary not in keys:
        raise InputError(f"--primary {options.primary} is not compared here; choose one of {', '.join(keys)}")
    if options.resamples and not calibrated and metric_of(options.primary).of_probability:
        raise InputError(f"--primary {options.primary} has no p here: both tables need the column calibrated")
    compared = {key: Comparison(*(of[key] for of in values), values[0][key] - values[1][key]) for key in keys}
    if not options.resamples:
        return compared
    patient = patients_of(a.assign(patient_id=a["patient_id"].fillna(b["patient_id"])))
    tick = options.ticker(options.resamples + options.swaps)
    found = resampled_values(scored, patient, options, 0, tick)
    p = _swapped(scored, patient, options, tick)
    adjusted = holm({key: p[key] for key in keys if key != options.primary and not np.isnan(p.get(key, np.nan))})
    for key, one in compared.items():
        low, high = difference_limits(key, found) or (None, None)
        own = None if np.isnan(p.get(key, np.nan)) else p[key]
        compared[key] = one._replace(low=low, high=high, p=own, p_holm=adjusted.get(key))
    return compared


def notes_on_p(a: pd.DataFrame, b: pd.DataFrame, by: str, options: EvalOptions) -> list[str]:
    """Return sentences on the p values of two Predictions tables, drawn by patient or row."""
    if not options.resamples:
        return []
    calibrated = _calibrated(a, b)
    swapped = "mid-ranks within the fold" + (", calls and calibrated probabilities" if calibrated else " and calls")
    notes = [
        P_NOTE.format(swaps=options.swaps, swapped=swapped, by=f"whole {by}s" if by == "patient" else "rows"),
        PRIMARY_NOTE.format(label=metric_of(options.primary).label or options.primary),
    ]
    return [*notes, OF_CALIBRATED if calibrated else NO_CALIBRATED]


def difference_limits(key: str, found: Resampled) -> tuple[float, float] | None:
    """Return the interval of a difference, which rests on the fewer units of the two models'."""
    resting = [support.of(key) for support in found.support]
    if any(withheld(key, one) for one in resting):
        return None
    return difference(*(of[key] for of in found.samples), min(one[metric_of(key).rests_on] for one in resting))


def _swapped(
    scored: Sequence[pd.DataFrame], patient: np.ndarray, options: EvalOptions, tick: Callable[[int], None]
) -> dict[str, float]:
    """Return p of every metric, but of those of probabilities where none is calibrated."""
    models = []
    for table in scored:
        prediction = table["prediction"].to_numpy(np.float64)
        fold = table["fold"].to_numpy(np.float64) if folds_of(table) else np.zeros(len(table))
        thresholds = {k: np.broadcast_to(at, len(table)) for k, at in thresholds_of(table, options).items()}
        probability = table["probability"].to_numpy(np.float64) if "probability" in table else None
        models.append(Model(prediction, mid_ranks(prediction, fold), thresholds, probability))
    target = scored[0]["target"].to_numpy(np.int64)
    a, b = models
    shared = [name for name in a.thresholds if name in b.thresholds]
    a, b = (model._replace(thresholds={name: model.thresholds[name] for name in shared}) for model in (a, b))
    return swap_p(target, patient, (a, b), swaps=options.swaps, seed=(options.seed, 1), tick=tick)


def _calibrated(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Return whether both tables have calibrated probabilities in all rows."""
    return all(CALIBRATED in table and table[CALIBRATED].notna().all() for table in (a, b))


def _aligned(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sort both tables by isic_id; `InputError` for the first lesion that they do not share or agree on."""
    for one, other, (own, others) in ((a, b, names), (b, a, names[::-1])):
        if (alone := ~one["isic_id"].isin(other["isic_id"])).any():
            first = one["isic_id"][alone].min()
            raise InputError(f"{first} is in {own} and not in {others}: two tables compare on the same rows only")
    a, b = (table.sort_values("isic_id", ignore_index=True) for table in (a, b))
    if len(a) == len(b):  # otherwise a lesion is there twice, which is found next
        for column in ("target", "patient_id"):
            if (differ := (a[column] != b[column]).fillna(False)).any():
                row = int(np.argmax(differ.to_numpy(bool)))
                both = " and ".join(f"{t[column][row]} in {name}" for t, name in zip((a, b), names, strict=True))
                raise InputError(f"{column} of {a['isic_id'][row]} is {both}: two tables must agree on it")
    return a, b
