"""Combine the out-of-fold predictions of several runs into those of one, and new predictions alike."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import rankdata

from jaxlesion.boosting.train import scores_of, to_logit
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import StackConfig, StackedConfig, TableConfig
from jaxlesion.core.files import write_atomic
from jaxlesion.core.hooks import ignore
from jaxlesion.core.outputs import check_folder
from jaxlesion.data.predictions import concatenate, predictions_table, write_predictions
from jaxlesion.evaluation.logistic import fit_logistic
from jaxlesion.runs.manifest import make_manifest
from jaxlesion.runs.store import Run, check_free, model_name

FIT = "stack.json"


def fit_stack(config: StackConfig, say: Callable[[str], None] = ignore) -> tuple[Run, pd.DataFrame]:
    """Make a run that combines others.

    Returns:
        The run, and its lesions with folds.

    Raises:
        InputError: fewer than two runs, one that is not finished, rows or folds that differ, or a folder in use.
    """
    if len(config.runs) < 2:
        raise InputError("give --runs two or more folders of runs")
    members = [Run.open(folder.resolve()) for folder in config.runs]
    for member in members:
        member.check_unreleased()
    stored = _complete(config, members)
    lesions = members[0].folds_table()
    if len(sorted(set(lesions["fold"]))) < 2:
        raise InputError(f"{members[0].folder}: a stack takes out-of-fold predictions of two folds or more")
    scores = np.stack([scores_of(member, lesions) for member in members], 1)
    if len({len(member.folds_table()) for member in members}) > 1:
        raise InputError("the runs have different numbers of rows: train them on the same ones")
    check_folder("--run-dir", stored.run_dir)
    if (stored.run_dir / "config.json").is_file():
        raise InputError(f"{stored.run_dir} is a run already: give another --run-dir")
    check_free(stored.run_dir)
    data = {"metadata": members[0].manifest["data"]["metadata"]}
    manifest = make_manifest(data, len(lesions), {"name": "none", "sha256": None}, ["cpu"])
    run = Run.create(stored.run_dir, stored, lesions, manifest)
    target, of_fold = lesions["target"].to_numpy(), lesions["fold"].to_numpy()
    for fold in run.fold_numbers():
        inside, folder = of_fold == fold, run.fold(fold)
        with folder.lock():
            fit = _fit(stored.method, scores[~inside], target[~inside])
            write_atomic(folder.folder / FIT, json.dumps({"coefficients": fit}, indent=2) + "\n")
            write_predictions(folder.oof, _held_out(run, lesions[inside], fit, scores[inside], fold))
        if fit is not None:
            weights = ", ".join(f"{one.folder.name} {w:.3f}" for one, w in zip(members, fit[:-1], strict=True))
            say(f"fold {fold}: weights of the logits: {weights}")
    run.collect_oof()
    return run, lesions


def _complete(config: StackConfig, members: Sequence[Run]) -> StackedConfig:
    """Take data and folds from the first run."""
    first = members[0].config
    return StackedConfig(
        runs=tuple(member.folder for member in members),
        method=config.method,
        run_dir=config.run_dir or Path("ckpt") / f"stack-{time.strftime('%Y%m%d-%H%M%S')}",
        data_dir=config.data_dir.resolve() if config.data_dir else first.data_dir,
        data=TableConfig(first.data.table, first.data.columns, first.data.positive),
        folds=first.folds,
    )


def _fit(method: str, scores: np.ndarray, target: np.ndarray) -> list[float] | None:
    """Return the weights of the logits, then the intercept; None for the mean of ranks."""
    if method == "rank":
        return None
    found = fit_logistic(np.column_stack([scores, np.ones(len(scores))]), target.astype(float))
    if found is None:
        raise InputError("no logistic regression fits predictions that separate the classes: give --method rank")
    return found.tolist()


def _held_out(
    run: Run, lesions: pd.DataFrame, fit: Sequence[float] | None, scores: np.ndarray, fold: int
) -> pd.DataFrame:
    """Combine the scores [n, runs] of the lesions that a fold held out; return the Predictions table."""
    combined = _ranks(scores).mean(1) if fit is None else _by(fit, scores)
    return predictions_table(lesions, combined, names(run, [fold])[0], fold)


def _by(fit: Sequence[float], scores: np.ndarray) -> np.ndarray:
    return expit(scores @ np.asarray(fit[:-1]) + fit[-1])


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return (rank - 1/2) / n of each column, ties halved."""
    return (rankdata(scores, axis=0) - 0.5) / len(scores)


def rank_among(new: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the share of known values [m] below each new one [n], of equal ones a half, kept inside (0, 1).

    0 and 1 become 1 / (2 m) and 1 - 1 / (2 m): no value is beyond all that are known by more than half a step.
    """
    known = np.sort(known)
    share = (np.searchsorted(known, new, "left") + np.searchsorted(known, new, "right")) / (2 * len(known))
    return share.clip(0.5 / len(known), 1 - 0.5 / len(known))


def members_of_stack(run: Run) -> list[Run]:
    """Open the runs of a stack, which must lie where they lay."""
    return [Run.open(folder) for folder in run.config.runs]


def out_of_fold(run: Run, lesions: pd.DataFrame, folds: Sequence[int]) -> pd.DataFrame:
    """Combine the members' out-of-fold predictions again; return the Predictions table."""
    scores = np.stack([scores_of(member, lesions) for member in members_of_stack(run)], 1)
    tables = []
    for fold in folds:
        inside = lesions["fold"].to_numpy() == fold
        tables.append(_held_out(run, lesions[inside], _read(run, fold), scores[inside], fold))
    return concatenate(tables)


def new_rows(run: Run, probabilities: Sequence[np.ndarray], folds: Sequence[int]) -> np.ndarray:
    """Combine the members' predictions [n] of lesions that none has seen; return [n, folds]."""
    scores, lesions = np.stack([to_logit(p) for p in probabilities], 1), run.folds_table()
    fits = [_read(run, fold) for fold in folds]
    if fits[0] is not None:
        return np.stack([_by(fit, scores) for fit in fits], 1)
    known = [scores_of(member, lesions) for member in members_of_stack(run)]
    ranks = np.mean([rank_among(scores[:, i], column) for i, column in enumerate(known)], axis=0)
    return np.repeat(ranks[:, None], len(folds), 1)


def names(run: Run, folds: Sequence[int]) -> list[str]:
    """Return the folds' names in Predictions tables."""
    return [model_name(fold, len(run.config.runs)) for fold in folds]


def _read(run: Run, fold: int) -> list[float] | None:
    path = run.fold(fold).folder / FIT
    try:
        fit = json.loads(path.read_text())["coefficients"]
        if (fit is None) == (run.config.method == "rank") and (fit is None or len(fit) == len(run.config.runs) + 1):
            return fit if fit is None else [float(value) for value in fit]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: holds no weights of this stack; put back what jaxlesion.stack wrote")
