"""Explain the trees of a run: the worth of groups of features, the course of single ones, reasons for one lesion."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import t

from jaxlesion.boosting.features import IMAGE, Features
from jaxlesion.boosting.measures import topic
from jaxlesion.boosting.predict import folds_features
from jaxlesion.boosting.train import held_out_logits
from jaxlesion.boosting.trees import contributions, log_odds
from jaxlesion.core.hooks import Meter
from jaxlesion.evaluation.bootstrap import LEVEL
from jaxlesion.evaluation.crossfold import auc_influence, rank_within_folds
from jaxlesion.evaluation.intervals import FEWEST_MALIGNANT
from jaxlesion.evaluation.metrics import roc_auc
from jaxlesion.evaluation.summary import patients_of
from jaxlesion.runs.store import Run

COMPARED = "compared with the patient's others"
REPEATS = 3  # shuffles of each group
POINTS = 15  # of a partial dependence
SHOWN = 8  # features whose partial dependence is drawn
REASONS = 5  # features named for one lesion
BENIGN = 5_000  # held-out rows at most, beside all malignant ones, that features are shuffled in
SAMPLE = 500  # held-out rows that partial dependence and contributions are averaged over


Folds = dict[int, tuple[Features, list]]
Change = Callable[[int, Features, np.ndarray], np.ndarray]
Tick = Callable[[int], object]  # called with 1 after each prediction by a bag


class Importance(NamedTuple):
    """Loss of ROC AUC of held-out rows where a group of features is shuffled among them."""

    group: str
    features: int
    loss: float
    low: float | None
    high: float | None


class Course(NamedTuple):
    """The mean predicted probability as one feature varies and all others stay (Friedman 2001)."""

    name: str
    at: np.ndarray  # [points]
    probability: np.ndarray  # [points]


class Explanation(NamedTuple):
    """Of a run of trees, on what its folds held out."""

    importance: list[Importance]  # the largest loss first
    strength: dict[str, float]  # mean absolute contribution to the log odds by feature, the largest first
    courses: list[Course]  # of the strongest numbers


def groups_of(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the features of each topic by their positions, and once more all comparisons within the patient."""
    found: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        found.setdefault("image" if IMAGE in name else topic(name), []).append(at)
    if compared := [at for at, name in enumerate(names) if ":" in name or name.split(" ")[-1] == "count"]:
        found[COMPARED] = compared
    return found


def explain(run: Run, lesions: pd.DataFrame, table: pd.DataFrame, progress: type[Meter] = Meter) -> Explanation:
    """Explain the trees of a run by the rows that its folds held out.

    Args:
        run: of trees.
        lesions: of the run, with folds and all columns.
        table: its out-of-fold predictions.
        progress: makes a meter of the bags' predictions.
    """
    folds = sorted(table["fold"].unique().tolist())
    each = folds_features(run, lesions, folds, held_out_logits(run, lesions), run.folder)
    rows = _to_shuffle(lesions, folds)
    held = lesions.iloc[rows].reset_index(drop=True)
    found = {fold: (replace(inputs, values=inputs.values[rows]), members) for fold, inputs, members in each}
    of_fold = held["fold"].to_numpy()
    groups = groups_of(next(iter(found.values()))[0].names)
    predictions = len(found) * (1 + len(groups) * REPEATS + 1 + SHOWN)
    with progress("explaining the trees", predictions, images=0) as meter:
        importance = _importance(held, found, of_fold, groups, meter.advance)
        strength = _strength(found, of_fold, meter.advance)
        numbers = [name for name in strength if all(_is_number(inputs, name) for inputs, _ in found.values())]
        courses = [_course(name, found, of_fold, meter.advance) for name in numbers[:SHOWN]]
    return Explanation(importance, strength, courses)


def _strength(found: Folds, of_fold: np.ndarray, tick: Tick) -> dict[str, float]:
    """Return the mean absolute contribution of each feature, the largest first."""
    strength: dict[str, list[float]] = {}
    for fold, (inputs, members) in found.items():
        rows = _some(np.flatnonzero(of_fold == fold), SAMPLE // len(found))
        for name, share in zip(
            inputs.names, np.abs(contributions(members, inputs.values[rows]))[:, :-1].mean(0), strict=True
        ):
            strength.setdefault(name, []).append(float(share))
        tick(1)
    return dict(sorted(((n, sum(v) / len(found)) for n, v in strength.items()), key=lambda item: -item[1]))


def _to_shuffle(lesions: pd.DataFrame, folds: Sequence[int]) -> np.ndarray:
    """Return the positions of all malignant held-out rows, and of at most BENIGN others, drawn at random."""
    held = np.flatnonzero(lesions["fold"].isin(folds))
    malignant = lesions["target"].to_numpy()[held] == 1
    benign = held[~malignant]
    if len(benign) > BENIGN:
        benign = np.random.default_rng(0).choice(benign, BENIGN, replace=False)
    return np.sort(np.concatenate([held[malignant], benign]))


def _is_number(inputs: Features, name: str) -> bool:
    return name in inputs.names and inputs.names.index(name) not in inputs.categories


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the rows, spread evenly."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def _predict(found: Folds, of_fold: np.ndarray, change: Change, tick: Tick) -> np.ndarray:
    """Predict each fold's held-out rows from changed features; return [n]."""
    prediction = np.full(len(of_fold), np.nan)
    for fold, (inputs, members) in found.items():
        rows = np.flatnonzero(of_fold == fold)
        prediction[rows] = expit(log_odds(members, change(fold, inputs, inputs.values[rows].copy())))
        tick(1)
    return prediction


def _importance(
    held: pd.DataFrame, found: Folds, of_fold: np.ndarray, groups: dict[str, list[int]], tick: Tick
) -> list[Importance]:
    target, patient = held["target"].to_numpy(), patients_of(held)
    own = rank_within_folds(target, _predict(found, of_fold, lambda fold, inputs, values: values, tick), of_fold)
    if own is None or not 0 < target.sum() < len(target):
        return []
    importance = []
    for number, (group, features) in enumerate(groups.items()):
        changes = [partial(_shuffle, group, (number, repeat)) for repeat in range(REPEATS)]
        shuffled = [rank_within_folds(target, _predict(found, of_fold, change, tick), of_fold) for change in changes]
        loss, half = _loss(target, own, shuffled, patient)
        limits = (None, None) if half is None else (loss - half, loss + half)
        importance.append(Importance(group, len(features), loss, *limits))
    return sorted(importance, key=lambda one: -one.loss)


def _shuffle(group: str, key: tuple[int, int], fold: int, inputs: Features, values: np.ndarray) -> np.ndarray:
    """Shuffle a group of features together among the rows of a fold."""
    at = groups_of(inputs.names).get(group, [])
    order = np.random.default_rng((*key, fold)).permutation(len(values))
    values[:, at] = values[order][:, at]
    return values


def _loss(
    target: np.ndarray, own: np.ndarray, shuffled: Sequence[np.ndarray], patient: np.ndarray
) -> tuple[float, float | None]:
    """Return how much ROC AUC falls from `own` to the mean of the shuffled, and half the width of its interval.

    The standard error is by the influence of each patient on the difference (Obuchowski 1997), with Student's t of the
    malignant patients - 1; None where they are too few.
    """
    loss = float(roc_auc(target, own) - np.mean([roc_auc(target, one) for one in shuffled]))
    malignant = len(np.unique(patient[target == 1]))
    if malignant < FEWEST_MALIGNANT:
        return loss, None
    influence = [auc_influence(target, one, patient) for one in (own, *shuffled)]
    square = (influence[0] - np.mean(influence[1:], axis=0)) ** 2
    error = np.sqrt(square.sum() * malignant / (malignant - 1))
    return loss, float(t.ppf((1 + LEVEL) / 2, malignant - 1) * error)


def _course(name: str, found: Folds, of_fold: np.ndarray, tick: Tick) -> Course:
    """Average the folds' partial dependence, between the 1st and the 99th percentile of held-out values."""
    values = np.concatenate(
        [inputs.values[of_fold == fold, inputs.names.index(name)] for fold, (inputs, _) in found.items()]
    )
    known = values[~np.isnan(values)]
    at = np.linspace(*np.quantile(known, (0.01, 0.99)), POINTS) if len(known) else np.zeros(0)
    curves = []
    for fold, (inputs, members) in found.items():
        rows = inputs.values[_some(np.flatnonzero(of_fold == fold), SAMPLE // len(found))]
        changed = np.tile(rows, (len(at), 1))
        changed[:, inputs.names.index(name)] = np.repeat(at, len(rows))
        curves.append(expit(log_odds(members, changed)).reshape(len(at), len(rows)).mean(1))
        tick(1)
    return Course(name, at, np.mean(curves, axis=0))


class Reason(NamedTuple):
    """A feature that moved one lesion's prediction, by how much log odds, and the lesion's own value."""

    name: str
    value: float
    log_odds: float


def reasons(run: Run, lesions: pd.DataFrame, wanted: Sequence[str], most: int = REASONS) -> dict[str, list[Reason]]:
    """Return the features that moved each wanted lesion's held-out prediction most, by SHAP's values.

    Args:
        run: of trees.
        lesions: of the run, with folds and all columns.
        wanted: isic_ids.
        most: features for each.
    """
    folds = sorted(lesions.loc[lesions["isic_id"].isin(wanted), "fold"].unique().tolist())
    named = {}
    for fold, inputs, members in folds_features(run, lesions, folds, held_out_logits(run, lesions), run.folder):
        rows = np.flatnonzero(lesions["isic_id"].isin(wanted) & (lesions["fold"] == fold))
        values = inputs.values[rows]
        for row, own, share in zip(rows, values, contributions(members, values)[:, :-1], strict=True):
            order = np.argsort(-np.abs(share))[:most]
            strongest = [Reason(inputs.names[at], float(own[at]), float(share[at])) for at in order]
            named[lesions["isic_id"].iloc[row]] = strongest
    return named


def reasons_of_new(
    run: Run, lesions: pd.DataFrame, folds: Sequence[int], scores: np.ndarray | None, path: object
) -> pd.DataFrame:
    """Return the features that moved each new lesion's prediction most, by the mean of the folds' SHAP values.

    Arguments are those of `folds_features`.

    Returns:
        REASONS rows a lesion, the strongest first: `isic_id`, `feature`, `value` and `log_odds`.
    """
    total: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    for _, inputs, members in folds_features(run, lesions, folds, scores, path):
        share = contributions(members, inputs.values) / len(folds)
        for at, name in enumerate(inputs.names):
            total[name] = total.get(name, 0.0) + share[:, at]
            values[name] = inputs.values[:, at]
    names, all_shares = np.array(list(total)), np.stack(list(total.values()), 1)
    strongest = np.argsort(-np.abs(all_shares), axis=1, kind="stable")[:, :REASONS]
    rows = np.arange(len(lesions))[:, None]
    return pd.DataFrame(
        {
            "isic_id": np.repeat(lesions["isic_id"].to_numpy(), strongest.shape[1]),
            "feature": names[strongest].ravel(),
            "value": np.stack(list(values.values()), 1)[rows, strongest].ravel(),
            "log_odds": all_shares[rows, strongest].ravel(),
        }
    )
