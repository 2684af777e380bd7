"""python -m jaxlesion.knn: the share of malignant ones among the nearest lesions of the other folds."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pandas as pd

from jaxlesion.core import config as configuration
from jaxlesion.core.config import DataConfig, FoldsConfig, ModelConfig, TrainConfig, flag, lookup
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import without_nan, write_atomic
from jaxlesion.data.batches import Batches, open_batches
from jaxlesion.data.dataset import Dataset, fingerprint, open_dataset
from jaxlesion.data.folds import assign, subset
from jaxlesion.data.metadata import metadata_features
from jaxlesion.data.predictions import concatenate, predictions_table, write_predictions
from jaxlesion.evaluation.bootstrap import LEVEL, RESAMPLES
from jaxlesion.evaluation.summary import EvalOptions, Summary, resampled_by, summarise
from jaxlesion.inference.neighbours import nearest
from jaxlesion.inference.predictor import predict_rows, restore_variables
from jaxlesion.learning.loop import predict_batches
from jaxlesion.learning.step import make_feature_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.weights import find_weights, initial_variables
from jaxlesion.runs.selection import choose_folds
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import data_mesh, replicated, use_cores
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import Meter, print_neighbours, progress, say
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse

PIXELS = 32  # side of what `pixels` compares: 3,072 numbers
OF_THE_RUN = ("folds", "model", "weights", "data.image_size", "data.max_records", "data.seed")

FoldFeatures = Callable[[int], np.ndarray]  # of all rows [n, d], for the fold that is held out


@dataclass(frozen=True)
class KnnConfig:
    """Predict each fold by the share of malignant ones among each lesion's k nearest of all rows of the other folds."""

    features: Literal["embedding", "pixels", "metadata"] = "embedding"
    """What is compared: pooled features of the network, RGB at 32 x 32, or the metadata's columns."""
    k: tuple[int, ...] = (5, 10, 15, 20)
    """Numbers of neighbours; one search serves all."""
    fold: tuple[int, ...] | Literal["all"] = (0,)
    """Folds to predict: 0, or 0 1 2, or all."""
    data_dir: Path | None = None
    """Folder with train-metadata.csv and train-image.hdf5 (or train-image/image/<isic_id>.jpg)."""
    run: Path | None = None
    """Folder of a run: its data and folds, and for embedding the network of each fold, at its last checkpoint."""
    weights: str = "imagenet"
    """For embedding: imagenet, a .safetensors file in timm's names, or none for random weights."""
    threshold: float = 0.5
    """Shares of at least this are malignant: at 0.5 also a tie, such as 5 of 10."""
    bootstrap: int = RESAMPLES
    """Draws for the intervals: of patients, or of rows where no patient has two. 0 for no intervals."""
    out: Path | None = None
    """Write the predictions into this folder, one CSV for each k."""
    json: Path | None = None
    """Write the figures there, as JSON."""
    data: DataConfig = field(default_factory=DataConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


def knn(config: KnnConfig) -> Summary:
    """Print the figures of each fold, and of all together, for every k; write them and the predictions where asked to.

    The JSON is that of `evaluate`, with `k = 5` and the like as sets of rows.

    Raises:
        InputError: an option out of range, nowhere to write to, or whatever `knn_predictions` finds.
    """
    if config.bootstrap < 0:
        raise InputError(f"--bootstrap is a number of draws, 0 for none, not {config.bootstrap}")
    if config.out is not None and config.out.exists() and not config.out.is_dir():
        raise InputError(f"{config.out} is not a folder: give another --out")
    if config.json is not None and not config.json.parent.is_dir():
        raise InputError(f"{config.json}: there is no such folder; make it, or give another --json")
    tables = knn_predictions(config)
    with progress("bootstrap") as tick:
        options = EvalOptions(threshold=config.threshold, resamples=config.bootstrap, tick=tick)
        parts = summarise({f"k = {k}": table for k, table in tables.items()}, "", options)
    for name, by_k in parts.items():
        print_neighbours(f"{config.features}, {name}", by_k)
    notes = [f"malignant where the share of malignant neighbours is at least {config.threshold:g}"]
    by = resampled_by(next(iter(tables.values())))
    if config.bootstrap:
        notes.append(f"below a figure its {LEVEL:.0%} interval, by {config.bootstrap:,} draws of {by}s")
    for note in notes:
        say(note)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        for k, table in tables.items():
            write_predictions(config.out / f"{model_name(config, k)}.csv", table)
        say(f"predictions in {config.out}")
    if config.json is not None:
        bootstrap = {"draws": config.bootstrap, "by": by, "level": LEVEL} if config.bootstrap else None
        figures = {p: {k: {n: f._asdict() for n, f in fs.items()} for k, fs in ks.items()} for p, ks in parts.items()}
        content = {"notes": notes, "bootstrap": bootstrap, "figures": without_nan(figures)}
        write_atomic(config.json, json.dumps(content, indent=2) + "\n")
    return parts


def knn_predictions(config: KnnConfig) -> dict[int, pd.DataFrame]:
    """For each k the Predictions table of the wanted folds, one after the other; `model` is `model_name`.

    Raises:
        InputError: whatever about options, data, weights or run the caller must put right.
    """
    if not config.k or min(config.k) < 1:
        raise InputError(f"--k must be at least 1, not {' '.join(map(str, config.k)) or 'nothing'}")
    training, run, dataset, lesions = _open(config)
    features = _features(config, training, run, dataset, lesions)
    target, of_fold = lesions["target"].to_numpy(), lesions["fold"].to_numpy()
    tables: dict[int, list[pd.DataFrame]] = {k: [] for k in sorted(set(config.k))}
    for fold in choose_folds(training.fold, sorted(set(of_fold.tolist()))):
        inside, values = of_fold == fold, features(fold)
        with Meter(f"fold {fold}: searching {(~inside).sum():,} rows", int(inside.sum())) as meter:
            _, row = nearest(values[~inside], values[inside], max(tables), lambda n, meter=meter: meter.tick(steps=n))
        malignant = target[~inside][row]
        for k, parts in tables.items():
            share = malignant[:, :k].mean(1)
            parts.append(predictions_table(lesions[inside], share, model_name(config, k), fold))
    return {k: concatenate(parts) for k, parts in tables.items()}


def model_name(config: KnnConfig, k: int) -> str:
    """What the Predictions tables call this model, such as knn-embedding-k5."""
    return f"knn-{config.features}-k{k}"


def _open(config: KnnConfig) -> tuple[TrainConfig, Run | None, Dataset, pd.DataFrame]:
    """What training would go by, the run if one is given, the dataset, and its rows with their folds."""
    if config.run is None:
        if config.data_dir is None:
            raise InputError("give --data-dir, the folder with train-metadata.csv, or --run, the folder of a run")
        folds = dataclasses.replace(config.folds, group=None) if config.folds.file else config.folds
        shared = {"fold": config.fold, "weights": config.weights, "data": config.data, "model": config.model}
        configuration.check(training := TrainConfig(**shared, folds=folds))
        dataset = open_dataset(config.data_dir)
        lesions = assign(subset(dataset.lesions, training.data.max_records, training.data.seed), training.folds)
        return training, None, dataset, lesions
    for name in OF_THE_RUN:
        if lookup(config, name) != lookup(KnnConfig(), name):
            raise InputError(f"--run has its own {flag(name)}: leave that out")
    run = Run.open(config.run)
    own = {name: lookup(run.config, name) for name in OF_THE_RUN}
    training = configuration.replace(TrainConfig(fold=config.fold, data=config.data), own)
    configuration.check(training)
    return training, run, *run.open_data(config.data_dir)


def _features(
    config: KnnConfig, training: TrainConfig, run: Run | None, dataset: Dataset, lesions: pd.DataFrame
) -> FoldFeatures:
    """The features of all rows as a function of the fold held out; what does not depend on it is computed once."""
    if config.features == "metadata":
        return lambda fold: _metadata(lesions, fold)
    if config.features == "pixels":
        pixels = _pixels(training.data, dataset, lesions)
        return lambda fold: pixels
    return _embedding(training, run, dataset, lesions)


def _metadata(lesions: pd.DataFrame, fold: int) -> np.ndarray:
    found = metadata_features(lesions, lesions["fold"].to_numpy() != fold)
    left_out = "".join(f", without {column} ({reason})" for column, reason in found.left_out.items())
    say(f"fold {fold}: {len(found.names)} features of the metadata{left_out}")
    return found.values


def _pixels(data: DataConfig, dataset: Dataset, lesions: pd.DataFrame) -> np.ndarray:
    """uint8 [n, 3072]."""
    small = dataclasses.replace(data, image_size=PIXELS, cache=False)
    batches = Batches(dataset.images, lesions["isic_id"], None, small)
    with Meter(f"pixels at {PIXELS} x {PIXELS}", len(lesions)) as meter:
        return predict_batches(
            lambda _, batch: batch["image"].reshape(small.batch_size, -1),
            {},
            batches.plain(np.arange(len(lesions))),
            lambda batch: batch,
            lambda rows: meter.tick(steps=rows),
        )


def _embedding(training: TrainConfig, run: Run | None, dataset: Dataset, lesions: pd.DataFrame) -> FoldFeatures:
    """float32 [n, features of the variant]; one network for all folds, or in a run each fold's own."""
    keep_compiled()
    use_cores(training.data.batch_size)
    mesh, model = data_mesh(training.data.batch_size), build_model(training.model).clone(num_classes=0)
    step = make_feature_step(model)
    batches = open_batches(training.data, lesions, dataset, fingerprint(dataset)["images"])

    def features(variables: object, title: str) -> np.ndarray:
        return predict_rows(step, variables, batches, np.arange(len(lesions)), mesh, title)

    if run is not None:
        return lambda fold: features(restore_variables(run, fold, "last", mesh)[0], f"fold {fold}: features")
    weights = find_weights(training.weights, training.model.variant)
    variables, _ = initial_variables(model, weights, training.data.seed)  # what it notes is of the classifier
    values = features(jax.device_put(variables, replicated(mesh)), "features")
    return lambda fold: values


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m jaxlesion.knn`."""
    prepare_process()
    run_program(lambda: knn(parse(KnnConfig, arguments(argv), "knn")))


if __name__ == "__main__":
    main()
