"""Train the wanted folds of a run, as one of several processes where there are such."""

from collections.abc import Callable

import pandas as pd

from jaxlesion.core.config import TrainConfig
from jaxlesion.core.hooks import SILENT, Hooks, ignore
from jaxlesion.runs.selection import folds_to_train
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import use_cores
from jaxlesion.runtime.processes import from_first, in_turn, process_index
from jaxlesion.training.begin import agree, begin, locate
from jaxlesion.training.fold import collect, train_fold_of

AfterFold = Callable[[Run, pd.DataFrame, pd.DataFrame], None]


def train_run(
    config: TrainConfig,
    hooks: Hooks = SILENT,
    started: Callable[[TrainConfig], None] = ignore,
    after_fold: AfterFold = ignore,
) -> Run:
    """Train the wanted folds of a run, new or existing.

    Args:
        config: of the run; its folders are filled in.
        hooks: see `Hooks`; events are `opened`, `planned` with the folds to train, and those of `train_fold_of`.
        started: called with the whole configuration once all is checked, before the first fold.
        after_fold: called in the first process with the run, its lesions and a finished fold's predictions.

    Raises:
        InputError: whatever about the data, the weights or the run the caller must put right.
        Stopped: a signal came; the state of the last step is saved.
    """
    keep_compiled()
    with in_turn():
        config = locate(config, hooks.say)
    config = agree(config)
    use_cores(config.data.batch_size)  # several processes have done so when they joined
    hooks.observe("opened")
    opened = begin(config, hooks)
    folds = from_first(lambda: folds_to_train(opened.run, config))
    started(config)
    hooks.observe("planned", folds=folds)
    for fold in folds:
        table = train_fold_of(opened, config, fold, hooks)
        if table is not None and process_index() == 0:
            after_fold(opened.run, opened.lesions, table)
    if not folds and process_index() == 0:
        collect(opened.run)  # folds may have come from another machine
    return opened.run
