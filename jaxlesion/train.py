"""python -m jaxlesion.train: train the folds of a run and predict what each one held out."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from jaxlesion import config as configuration
from jaxlesion.cli import arguments, parse_train
from jaxlesion.compilation import keep_compiled
from jaxlesion.config import TrainConfig
from jaxlesion.console import print_figures, run_program, say
from jaxlesion.data.folds import assign, subset, training_rows
from jaxlesion.data.layout import Dataset, fingerprint, open_dataset
from jaxlesion.data.lesions import KEYS
from jaxlesion.data.loader import open_batches, steps_per_epoch
from jaxlesion.data.predictions import write_predictions
from jaxlesion.errors import InputError
from jaxlesion.evaluate import PRIOR_NOTE
from jaxlesion.figures import How, drawn_by, figures_of_run
from jaxlesion.files import sha256
from jaxlesion.inference import lesions_of
from jaxlesion.runs import Run, make_manifest
from jaxlesion.sharding import use_cores
from jaxlesion.signals import StopSignal
from jaxlesion.state import build_model
from jaxlesion.training import FoldTraining
from jaxlesion.weights import find_weights, read_variables

DEMO_NOTE = "The figures of drawn lesions mean nothing clinically."


def train(config: TrainConfig) -> Run:
    """Train the wanted folds of a run, new or existing.

    Raises:
        InputError: whatever about the data, the weights or the run the caller must put right.
    """
    keep_compiled()
    config = locate(config)
    use_cores(config.data.batch_size)
    say(json.dumps(configuration.to_dict(config), indent=2))
    weights = find_weights(config.weights, config.model.variant)
    dataset = open_dataset(config.data_dir, columns=(*KEYS, config.folds.group))
    if dataset.unused_images:
        say(f"{dataset.unused_images:,} images have no row in {dataset.metadata.name} and are ignored")
    run, lesions = open_run(config, dataset, weights)
    batches = open_batches(config.data, lesions, dataset, run.manifest["data"]["images"])
    folds = wanted_folds(run, config)
    for fold in folds:
        fold_dir = run.fold(fold)
        with fold_dir.lock(), StopSignal() as stop:
            table = FoldTraining(config, fold, fold_dir, lesions, batches, weights, stop).run()
            write_predictions(fold_dir.oof, table)
            run.collect_oof()
        for name, columns in figures_of_run(run, lesions, table).items():
            by = f"[95% interval] by {How().draws:,} draws of {drawn_by(table)}s"
            print_figures(name, columns, ["thresholded at 0.5", by, PRIOR_NOTE])
    if not folds:
        run.collect_oof()  # folds may have come from another machine
    if config.preset == "demo":
        say(DEMO_NOTE)
    say(f"run: {run.folder}    out-of-fold predictions: {run.folder / 'oof.csv'}")
    return run


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
    if (config.run_dir / "config.json").is_file():
        run = Run.open(config.run_dir)
        run.check_same(config, data)
        if run.manifest["weights"]["sha256"] != weights_sha:
            raise InputError(
                f"{run.folder} was started from other weights than {config.weights}: give those, or another --run-dir"
            )
        return run, lesions_of(run, dataset)
    lesions = assign(subset(dataset.lesions, config.data.max_records, config.data.seed), config.folds)
    check_trainable(config, lesions, weights)
    source = {"name": config.weights, "sha256": weights_sha}
    manifest = make_manifest(data, len(lesions), source, [str(d.device_kind) for d in jax.devices()])
    return Run.create(config.run_dir, config, lesions, manifest), lesions


def check_trainable(config: TrainConfig, lesions: pd.DataFrame, weights: Path | None) -> None:
    """Find out before a run is written what would stop its training at the first step.

    Raises:
        InputError: a fold that does not exist or does not fill a batch, or weights that do not fit.
    """
    existing = sorted(lesions["fold"].unique().tolist())
    for fold in choose_folds(config, existing):
        rows = training_rows(lesions, fold, config.sampling, config.data.seed)
        steps_per_epoch(rows, config.data.batch_size)
    if weights is not None:
        read_variables(build_model(config.model), weights)


def choose_folds(config: TrainConfig, existing: list[int]) -> list[int]:
    """The folds that `--fold` means, ascending.

    Raises:
        InputError: one that does not exist.
    """
    wanted = existing if config.fold == "all" else sorted(set(config.fold))
    if absent := [k for k in wanted if k not in existing]:
        raise InputError(f"--fold {absent[0]}: the folds are {', '.join(map(str, existing))}")
    return wanted


def wanted_folds(run: Run, config: TrainConfig) -> list[int]:
    """The folds to train now, ascending.

    Raises:
        InputError: a fold that does not exist, or is already there and not to be resumed.
    """
    wanted = choose_folds(config, sorted(run.folds_table()["fold"].unique().tolist()))
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
    run_program(lambda: train(parse_train(arguments(argv))))


if __name__ == "__main__":
    main()
