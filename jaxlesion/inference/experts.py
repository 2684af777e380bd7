"""Predict by a run of any kind: a network, trees on metadata, or a stack of runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.boosting import predict as trees
from jaxlesion.boosting.explain import reasons_of_new
from jaxlesion.boosting.train import to_logit
from jaxlesion.core.errors import InputError
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.predictions import predictions_table
from jaxlesion.inference import stacking
from jaxlesion.inference.predictor import EnsemblePredictions, finished_folds
from jaxlesion.runs.store import Run

ByNetwork = Callable[[Run], np.ndarray]  # probability [n] of new lesions, by the mean of a network's folds


def networks(run: Run) -> Iterator[Run]:
    """Yield the runs with a network that a run of any kind predicts by, each once."""
    seen: dict[object, Run] = {}
    waiting = [run]
    while waiting:
        one = waiting.pop(0)
        if one.folder.resolve() in seen:
            continue
        seen[one.folder.resolve()] = one
        if one.kind == "network":
            yield one
        waiting += [Run.open(folder) for folder in _others(one)]


def _others(run: Run) -> tuple[Path, ...]:
    """Return the folders of the runs that a run is made of."""
    return run.config.runs if run.kind == "stack" else run.config.features.runs if run.kind == "tabular" else ()


def predict_new(run: Run, dataset: Dataset, network: ByNetwork) -> EnsemblePredictions:
    """Predict lesions that no fold has seen, by each fold of trees or of a stack, and by the mean of all.

    Args:
        run: of trees, or a stack.
        dataset: of the lesions, with all columns.
        network: predicts by the runs with networks that this one is made of.

    Raises:
        InputError: whatever is wrong with the table or the runs.
    """
    folds, lesions = finished_folds(run), dataset.lesions
    if run.kind == "stack":
        each = stacking.new_rows(run, [_mean(one, dataset, network) for one in stacking.members_of_stack(run)], folds)
        models = stacking.names(run, folds)
    else:
        each = trees.new_rows(run, lesions, folds, _logits(run, dataset, network), dataset.metadata)
        models = trees.names(run, folds)
    table = predictions_table(lesions, each.mean(1), f"mean of {' '.join(models)}")
    return EnsemblePredictions(table, each, models)


def explain_new(run: Run, dataset: Dataset, network: ByNetwork) -> pd.DataFrame:
    """Return the features that moved the prediction of each new lesion most; arguments as for `predict_new`."""
    return reasons_of_new(run, dataset.lesions, finished_folds(run), _logits(run, dataset, network), dataset.metadata)


def _logits(run: Run, dataset: Dataset, network: ByNetwork) -> np.ndarray | None:
    """Return the logits [n, runs] of the runs on images that trees take as features; None where there are none."""
    others = [to_logit(_mean(Run.open(folder), dataset, network)) for folder in run.config.features.runs]
    return np.stack(others, 1) if others else None


def _mean(run: Run, dataset: Dataset, network: ByNetwork) -> np.ndarray:
    return network(run) if run.kind == "network" else predict_new(run, dataset, network).each.mean(1)


def predict_held_out(run: Run, lesions: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Predict again what each finished fold of trees or of a stack held out; return the Predictions table."""
    folds = finished_folds(run)
    if run.kind == "stack":
        return stacking.out_of_fold(run, lesions, folds)
    return trees.out_of_fold(run, lesions, folds, dataset.metadata)


def check_views(run: Run, **given: bool) -> None:
    """Raise InputError for options of networks, where none predicts; by their names, whether they are given."""
    if not any(networks(run)) and (named := [name for name, is_given in given.items() if is_given]):
        raise InputError(f"--{named[0].replace('_', '-')} is for networks, and {run.folder} has none: leave it out")
