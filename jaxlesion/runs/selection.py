"""Choose the folds of a run."""

from typing import Literal

from jaxlesion.core.config import TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.runs.store import Run


def choose_folds(wanted: tuple[int, ...] | Literal["all"], existing: list[int]) -> list[int]:
    """Return the folds that `--fold` means, ascending.

    Args:
        wanted: fold numbers, or all.
        existing: the folds that there are.

    Raises:
        InputError: a wanted one does not exist.
    """
    folds = existing if wanted == "all" else sorted(set(wanted))
    if absent := [k for k in folds if k not in existing]:
        raise InputError(f"--fold {absent[0]}: the folds are {', '.join(map(str, existing))}")
    return folds


def folds_to_train(run: Run, config: TrainConfig) -> list[int]:
    """Return the folds to train now, ascending.

    Raises:
        InputError: a fold that does not exist, or is already there and not to be resumed.
    """
    wanted = choose_folds(config.fold, sorted(run.folds_table()["fold"].unique().tolist()))
    if config.resume:
        return [k for k in wanted if not run.fold(k).finished]
    for k in wanted:
        if run.fold(k).started:
            finished = run.fold(k).finished
            what = "finished: train another fold" if finished else "started: resume it by --resume"
            raise InputError(f"{run.folder}: fold {k} is {what}, or give another --run-dir")
    return wanted
