"""Choose the folds of a run."""

from typing import Literal

from jaxlesion.core.config import ALL_ROWS, TrainConfig, fold_name
from jaxlesion.core.errors import InputError
from jaxlesion.runs.store import Run


def choose_folds(wanted: tuple[int, ...] | Literal["all", "none"], existing: list[int]) -> list[int]:
    """Return the folds that `--fold` means, ascending; ALL_ROWS for the model of all rows.

    Args:
        wanted: fold numbers, all or none.
        existing: the folds that there are.

    Raises:
        InputError: a wanted one does not exist.
    """
    if wanted == "none":
        return [ALL_ROWS]
    folds = existing if wanted == "all" else sorted(set(wanted))
    if absent := [k for k in folds if k not in existing]:
        raise InputError(f"--fold {absent[0]}: the folds are {', '.join(map(str, existing))}")
    return folds


def folds_to_train(run: Run, config: TrainConfig) -> list[int]:
    """Return the folds to train now, ascending.

    Raises:
        InputError: a fold that does not exist, or is already there and not to be resumed.
    """
    wanted = choose_folds(config.fold, run.fold_numbers())
    if config.resume:
        return [k for k in wanted if not run.fold(k).finished]
    for k in wanted:
        if run.fold(k).started:
            finished = run.fold(k).finished
            what = "finished: train another fold" if finished else "started: resume it by --resume"
            raise InputError(f"{run.folder}: fold {fold_name(k)} is {what}, or give another --run-dir")
    return wanted


def folds_meant(run: Run) -> tuple[int, ...] | Literal["all", "none"]:
    """Return what `--fold` is for a run where it is not given: the folds that it was begun with, and all begun since.

    The model of all rows is meant once it is begun and all of these are finished.
    """
    first = run.config.fold
    begun = {int(name) for name in run.begun() if name.isdecimal()}
    wanted = first if first == "all" else tuple(sorted(begun if first == "none" else begun | set(first)))
    if not wanted:
        return "none"
    if not run.fold(ALL_ROWS).started:
        return wanted
    finished = {*run.finished_folds()}
    return "none" if finished.issuperset(choose_folds(wanted, run.fold_numbers())) else wanted
