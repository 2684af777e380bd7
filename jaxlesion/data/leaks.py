"""Metadata columns that tell the label by themselves."""

import numpy as np
import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.data.metadata import MAX_CATEGORIES
from jaxlesion.data.schema import feature_columns
from jaxlesion.data.tables import numbers

TELLING_COUNTS = 0.8  # patients drawn regardless of their rows' labels: about 0.5
TELLING = 0.99  # ROC AUC of one column: no measurement of a lesion is so good


def telling_columns(lesions: pd.DataFrame) -> dict[str, float]:
    """Find the feature columns that separate the classes almost perfectly, by their values or by being empty.

    Such a column was filled in after the diagnosis, or drawn together with it.

    Args:
        lesions: rows with `target`.

    Returns:
        ROC AUC by column, at least `TELLING`: of a number the better of both directions, of a text that of its
        categories' shares of malignant rows.
    """
    target = lesions["target"].to_numpy()
    if not 0 < target.sum() < len(target):
        return {}
    found = {}
    for column in feature_columns(lesions):
        areas = [_area(target, values) for values in _scores(lesions[column], target)]
        if areas and (best := max(max(area, 1 - area) for area in areas)) >= TELLING:
            found[column] = best
    return found


def refuse_telling_counts(lesions: pd.DataFrame, remedy: str = "") -> None:
    """Refuse rows where it tells the label, malignant or benign, whether a patient has several of them.

    Ids are then known for some rows alone, drawn by their label, and whatever is computed within a patient sees it.

    Args:
        lesions: rows with `target`.
        remedy: what to do, for the message.

    Raises:
        InputError: the ROC AUC is at least TELLING_COUNTS, or at most 1 - TELLING_COUNTS.
    """
    target = lesions["target"].to_numpy()
    if "patient_id" not in lesions or not 0 < target.sum() < len(target):
        return
    area = _area(target, lesions["patient_id"].duplicated(keep=False).to_numpy(float))
    if max(area, 1 - area) >= TELLING_COUNTS:
        raise InputError(
            f"whether a patient has several rows tells the label (ROC AUC {area:.2f}): patients are known for some "
            f"rows alone, so that what is computed within a patient would see it{remedy}"
        )


def _scores(cells: pd.Series, target: np.ndarray) -> list[np.ndarray]:
    """Return what a column may be ranked by [n]: whether it is empty, and its number or its category's share."""
    empty = cells.isna().to_numpy()
    scores = [empty.astype(float)]
    number = numbers(cells).to_numpy()
    if np.isfinite(number[~empty]).all() and not empty.all():
        scores.append(np.where(empty, np.median(number[~empty]), number))
    elif cells.nunique() <= MAX_CATEGORIES:
        text = cells.astype("string").fillna("")
        scores.append(pd.Series(target).groupby(text.to_numpy(object)).transform("mean").to_numpy())
    return scores


def _area(target: np.ndarray, score: np.ndarray) -> float:
    """Return the ROC AUC by ranks, a tie counting half (Mann and Whitney 1947)."""
    from scipy.stats import rankdata

    positives = target.sum()
    rank_sum = rankdata(score)[target == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * (len(target) - positives)))
