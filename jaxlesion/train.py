"""python -m jaxlesion.train: train the folds of a run and predict what each one held out."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from jaxlesion.core import config as configuration
from jaxlesion.core.config import DistributedConfig, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.data.batches import open_batches, steps_per_epoch
from jaxlesion.data.dataset import Dataset, fingerprint, open_dataset
from jaxlesion.data.folds import assign, subset, training_rows
from jaxlesion.data.lesions import KEYS
from jaxlesion.data.predictions import write_predictions
from jaxlesion.data.sources import check
from jaxlesion.evaluation.summary import PRIOR_NOTE, EvalOptions, resampled_by, summarise_run
from jaxlesion.learning.trainer import FoldTraining
from jaxlesion.model.registry import build_model
from jaxlesion.model.weights import find_weights, read_variables
from jaxlesion.runs.selection import choose_folds
from jaxlesion.runs.store import FoldDir, Run, difference, make_manifest
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import use_cores
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.runtime.processes import (
    end_together,
    first_alone,
    from_first,
    in_turn,
    join_processes,
    process_count,
    process_index,
)
from jaxlesion.runtime.signals import StopSignal
from jaxlesion.ui.console import console, print_estimates, say
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse_train

DEMO_NOTE = "The figures of drawn lesions mean nothing clinically."


def train(config: TrainConfig) -> Run:
    """Train the wanted folds of a run, new or existing, as one of several processes where there are such.

    Raises:
        InputError: whatever about the data, the weights or the run the caller must put right.
    """
    with join_processes(config.distributed), _first_alone_prints():
        return _train(config)


def _train(config: TrainConfig) -> Run:
    keep_compiled()
    with in_turn():
        config = locate(config)
    config = agreed(config)
    use_cores(config.data.batch_size // process_count())
    if process_count() > 1:
        jax.devices()  # starts JAX, here where all processes are: it waits for them, and not for long
    say(json.dumps(configuration.to_dict(config), indent=2))
    with in_turn():
        weights = find_weights(config.weights, config.model.variant)
    dataset = open_dataset(config.data_dir, columns=(*KEYS, config.folds.group))
    if dataset.unused_images:
        say(f"{dataset.unused_images:,} images have no row in {dataset.metadata.name} and are ignored")
    run, lesions = open_run(config, dataset, weights)
    with in_turn():
        batches = open_batches(config.data, lesions, dataset, run.manifest["data"]["images"])
    folds = from_first(lambda: wanted_folds(run, config))
    for fold in folds:
        fold_dir = run.fold(fold)
        with _held(fold_dir), StopSignal() as stop:
            table = FoldTraining(config, fold, fold_dir, lesions, batches, weights, stop).run()
            if process_index() == 0:
                write_predictions(fold_dir.oof, table)
                run.collect_oof()
        if process_index() == 0:
            report(run, lesions, table)
    if not folds and process_index() == 0:
        run.collect_oof()  # folds may have come from another machine
    if config.preset == "demo":
        say(DEMO_NOTE)
    say(f"run: {run.folder}    out-of-fold predictions: {run.folder / 'oof.csv'}")
    return run


@contextmanager
def _first_alone_prints() -> Iterator[None]:
    console.quiet = process_index() > 0
    try:
        yield
    finally:
        console.quiet = False


@contextmanager
def _held(fold_dir: FoldDir) -> Iterator[None]:
    """The lock of a fold, which the first process holds for all."""
    with ExitStack() as stack:
        from_first(lambda: stack.enter_context(fold_dir.lock()) and None)
        yield


def report(run: Run, lesions: pd.DataFrame, table: pd.DataFrame) -> None:
    """Print the figures of a fold that has been finished."""
    for name, columns in summarise_run(run.config, lesions, table).items():
        by = f"[95% interval] by {EvalOptions().resamples:,} draws of {resampled_by(table)}s"
        print_estimates(name, columns, ["thresholded at 0.5", by, PRIOR_NOTE])


def agreed(config: TrainConfig) -> TrainConfig:
    """The configuration of this process with the first one's run, folds and saves.

    Raises:
        InputError: it would be another run.
    """
    if process_count() == 1:
        return config
    first = configuration.from_dict(from_first(lambda: configuration.to_dict(config)), "the first process")
    if (differs := difference(first, config)) is not None:
        option, theirs, ours = differs
        raise InputError(f"{option} is {ours}, and {theirs} in process 0: give all processes the same options")
    same = ("run_dir", "fold", "resume", "checkpoint", "data.on_device")
    return configuration.replace(config, {name: configuration.lookup(first, name) for name in same})


def locate(config: TrainConfig) -> TrainConfig:
    """The configuration with its folders filled in; draws the demo lesions if those are wanted."""
    changes: dict[str, Any] = {}
    if config.run_dir is None:
        changes["run_dir"] = Path("ckpt") / f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    if config.data_dir is None:
        from jaxlesion.data.demo import write_demo

        say(f"No --data-dir: training on drawn demo lesions. {DEMO_NOTE}")
        changes["data_dir"] = write_demo(Path("ckpt") / "demo-data")
    config = configuration.replace(config, changes)
    return configuration.replace(config, {"data_dir": config.data_dir.resolve()})


def open_run(config: TrainConfig, dataset: Dataset, weights: Path | None) -> tuple[Run, pd.DataFrame]:
    """The run in `config.run_dir`, made if need be, and its lesions with their folds, in the run's order."""
    data = fingerprint(dataset)
    weights_sha = sha256(weights) if weights else None
    with first_alone():
        return _open_run(config, dataset, data, weights, weights_sha)


def _open_run(
    config: TrainConfig, dataset: Dataset, data: dict[str, str], weights: Path | None, weights_sha: str | None
) -> tuple[Run, pd.DataFrame]:
    new = not (config.run_dir / "config.json").is_file()
    if new and process_index() > 0:
        raise InputError(
            f"{config.run_dir} is not there, but process 0 has made it: give a folder that all hosts share"
        )
    if new:
        lesions = assign(subset(dataset.lesions, config.data.max_records, config.data.seed), config.folds)
        check_trainable(config, lesions, weights)
        for isic_id in lesions["isic_id"].tolist():
            check(dataset.images.read(isic_id), isic_id)
        source = {"name": config.weights, "sha256": weights_sha}
        manifest = make_manifest(data, len(lesions), source, [str(d.device_kind) for d in jax.devices()])
        kept = configuration.replace(config, {"distributed": DistributedConfig()})  # the next start may be another
        Run.create(config.run_dir, kept, lesions, manifest)
        say(f"a new run: {config.run_dir}")
    run = Run.open(config.run_dir)  # be it new: another process may have begun it at the same time, with other options
    run.check_same(config, data)
    if run.manifest["weights"]["sha256"] != weights_sha:
        raise InputError(
            f"{run.folder} was started from other weights than {config.weights}: give those, or another --run-dir"
        )
    return run, run.lesions(dataset)


def check_trainable(config: TrainConfig, lesions: pd.DataFrame, weights: Path | None) -> None:
    """Find out before a run is written what would stop its training at the first step.

    Raises:
        InputError: a fold that does not exist or does not fill a batch, or weights that do not fit.
    """
    existing = sorted(lesions["fold"].unique().tolist())
    for fold in choose_folds(config.fold, existing):
        rows = training_rows(lesions, fold, config.sampling, config.data.seed)
        steps_per_epoch(rows, config.data.batch_size)
    if weights is not None:
        read_variables(build_model(config.model), weights)


def wanted_folds(run: Run, config: TrainConfig) -> list[int]:
    """The folds to train now, ascending.

    Raises:
        InputError: a fold that does not exist, or is already there and not to be resumed.
    """
    wanted = choose_folds(config.fold, sorted(run.folds_table()["fold"].unique().tolist()))
    if config.resume:
        return [k for k in wanted if not run.fold(k).finished]
    for k in wanted:
        if run.fold(k).started:
            finished = run.fold(k).finished
            what = "finished: train another fold" if finished else "started: go on with it by --resume"
            raise InputError(f"{run.folder}: fold {k} is {what}, or give another --run-dir")
    return wanted


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m jaxlesion.train`."""
    prepare_process()
    with end_together():
        run_program(lambda: train(parse_train(arguments(argv))))


if __name__ == "__main__":
    main()
