"""Nearest neighbours as a classifier: the share of malignant ones among the nearest lesions of the other folds."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pandas as pd

from jaxlesion.core import config as configuration
from jaxlesion.core import fields
from jaxlesion.core.config import DataConfig, FoldsConfig, ModelConfig, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.fields import flag, lookup
from jaxlesion.core.hooks import SILENT, Hooks
from jaxlesion.data.batches import Batches, open_batches
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.folds import assign, subset
from jaxlesion.data.leaks import telling_columns
from jaxlesion.data.metadata import metadata_features
from jaxlesion.data.open import open_dataset, open_table
from jaxlesion.data.predictions import concatenate, predictions_table
from jaxlesion.inference.neighbours import nearest
from jaxlesion.inference.predictor import restore_variables
from jaxlesion.learning.loop import predict_batches, predict_rows
from jaxlesion.learning.step import make_feature_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.weights import find_weights, initial_variables
from jaxlesion.runs.selection import choose_folds
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import data_mesh, platform_of, replicated, use_cores

PIXELS = 32  # side of the images that `pixels` compares: 3,072 numbers
OF_THE_RUN = (
    *("folds", "model", "weights", "data.image_size", "data.max_records", "data.seed"),
    *("data.antialias", "data.columns", "data.positive"),
)

FoldFeatures = Callable[[int], np.ndarray]  # of all rows [n, d], for the fold that is held out


@dataclass(frozen=True)
class KnnOptions:
    """The search: features, numbers of neighbours, folds, and data."""

    features: Literal["embedding", "pixels", "metadata"] = "embedding"
    """Features to compare: pooled features of the network, RGB at 32 x 32, or the metadata's columns."""
    k: tuple[int, ...] = (5, 10, 15, 20)
    """Numbers of neighbours; one search serves all."""
    fold: tuple[int, ...] | Literal["all"] = (0,)
    """Folds to predict: 0, or 0 1 2, or all."""
    data_dir: Path | None = None
    """Folder with train-metadata.csv and train-image.hdf5 (or train-image/image/<isic_id>.jpg).
    Comparing metadata takes the table alone."""
    run: Path | None = None
    """Folder of a run: its data and folds, and for embedding the network of each fold, at its last checkpoint."""
    weights: str = "imagenet"
    """For embedding: imagenet, a .safetensors file in timm's names, or none for random weights."""
    data: DataConfig = field(default_factory=DataConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass(frozen=True)
class Searched:
    """The rows to search, with the configuration that training on them would have.

    Args:
        training: data, folds, model and weights.
        run: whose networks give embeddings; None for one of given weights.
        dataset: of the rows; None where metadata alone is compared.
        lesions: the rows, with folds.
    """

    training: TrainConfig
    run: Run | None
    dataset: Dataset | None
    lesions: pd.DataFrame


def knn_predictions(options: KnnOptions, hooks: Hooks = SILENT) -> dict[int, pd.DataFrame]:
    """Predict the wanted folds for each k, by the k nearest of all rows of the other folds.

    Args:
        options: of the search.
        hooks: see `Hooks`.

    Returns:
        For each k the Predictions table of the folds, one after the other; `model` is `model_name`.

    Raises:
        InputError: whatever about options, data, weights or run the caller must put right.
    """
    if not options.k or min(options.k) < 1:
        raise InputError(f"--k must be at least 1, not {' '.join(map(str, options.k)) or 'nothing'}")
    searched = open_searched(options, hooks.say)
    features = _features(options.features, searched, hooks)
    lesions = searched.lesions
    target, of_fold = lesions["target"].to_numpy(), lesions["fold"].to_numpy()
    tables: dict[int, list[pd.DataFrame]] = {k: [] for k in sorted(set(options.k))}
    for fold in choose_folds(options.fold, sorted(set(of_fold.tolist()))):
        inside, values = of_fold == fold, features(fold)
        with hooks.progress(f"fold {fold}: searching {(~inside).sum():,} rows", int(inside.sum())) as meter:
            _, row = nearest(values[~inside], values[inside], max(tables), meter.advance)
        malignant = target[~inside][row]
        for k, parts in tables.items():
            share = malignant[:, :k].mean(1)
            parts.append(predictions_table(lesions[inside], share, model_name(options, k), fold))
    return {k: concatenate(parts) for k, parts in tables.items()}


def model_name(options: KnnOptions, k: int) -> str:
    """Return the model's name in Predictions tables, such as knn-embedding-k5."""
    return f"knn-{options.features}-k{k}"


def open_searched(options: KnnOptions, say: Callable[[str], None]) -> Searched:
    """Open the rows, with folds, and the configuration that training on them would have.

    Raises:
        InputError: whatever about options, data, weights or run the caller must put right.
    """
    if options.run is None:
        if options.data_dir is None:
            raise InputError("give --data-dir, the folder with train-metadata.csv, or --run, the folder of a run")
        folds = dataclasses.replace(options.folds, group=None) if options.folds.file else options.folds
        shared = {"fold": options.fold, "weights": options.weights, "data": options.data, "model": options.model}
        configuration.check(training := TrainConfig(**shared, folds=folds))
        opened = (open_table if options.features == "metadata" else open_dataset)(
            options.data_dir, layout=options.data, say=say
        )
        dataset, table = (None, opened) if isinstance(opened, pd.DataFrame) else (opened, opened.lesions)
        lesions = assign(subset(table, training.data.max_records, training.data.seed), training.folds)
        return Searched(training, None, dataset, lesions)
    for name in OF_THE_RUN:
        if lookup(options, name) != lookup(KnnOptions(), name):
            raise InputError(f"--run has its own {flag(name)}: leave that out")
    run = Run.open(options.run)
    run.check_network("give --data-dir, and --folds.file its folds.csv")
    own = {name: lookup(run.config, name) for name in OF_THE_RUN}
    training = fields.replace(TrainConfig(fold=options.fold, data=options.data), own)
    configuration.check(training)
    return Searched(training, run, *run.open_data(options.data_dir, options.data.table))


def _features(kind: str, searched: Searched, hooks: Hooks) -> FoldFeatures:
    """Return the features of all rows as a function of the fold held out; the shared part is computed once."""
    if kind == "metadata":
        return lambda fold: _metadata(searched.lesions, fold, hooks)
    if kind == "pixels":
        pixels = _pixels(searched, hooks)
        return lambda fold: pixels
    return embedding(searched, hooks)


def _metadata(lesions: pd.DataFrame, fold: int, hooks: Hooks) -> np.ndarray:
    found = metadata_features(lesions, lesions["fold"].to_numpy() != fold)
    left_out = "".join(f", without {column} ({reason})" for column, reason in found.left_out.items())
    hooks.say(f"fold {fold}: {len(found.names)} features of the metadata{left_out}")
    for column, why in found.as_text.items():
        hooks.say(f"fold {fold}: {column} is taken as text, a category for each value: {why}; correct or empty these")
    for column, area in telling_columns(lesions[lesions["fold"] != fold]).items():
        hooks.say(f"fold {fold}: {column} alone tells the label (ROC AUC {area:.4f}): was it known before the biopsy?")
    return found.values


def _pixels(searched: Searched, hooks: Hooks) -> np.ndarray:
    """Return the pixels of all rows, uint8 [n, 3072]."""
    small = dataclasses.replace(searched.training.data, image_size=PIXELS, cache=False)
    rows = len(searched.lesions)
    batches = Batches(searched.dataset.images, searched.lesions["isic_id"], None, small)
    with hooks.progress(f"pixels at {PIXELS} x {PIXELS}", rows) as meter:
        return predict_batches(
            lambda _, batch: batch["image"].reshape(small.batch_size, -1),
            {},
            batches.plain(np.arange(rows)),
            lambda batch: batch,
            meter.advance,
        )


def embedding(searched: Searched, hooks: Hooks) -> FoldFeatures:
    """Return the pooled features, float32 [n, width]: of one network for all folds, or of each fold's own in a run."""
    training, run, lesions = searched.training, searched.run, searched.lesions
    keep_compiled()
    use_cores(training.data.batch_size)
    mesh = data_mesh(training.data.batch_size)
    model = build_model(training.model, platform_of(mesh)).clone(num_classes=0)
    step = make_feature_step(model)
    batches = open_batches(training.data, lesions, searched.dataset, fingerprint(searched.dataset)["images"])

    def features(variables: object, title: str) -> np.ndarray:
        return predict_rows(step, variables, batches, np.arange(len(lesions)), mesh, title, hooks.progress)

    if run is not None:
        return lambda fold: features(restore_variables(run, fold, "last", mesh)[0], f"fold {fold}: features")
    weights = find_weights(training.weights, training.model.variant)
    variables, _ = initial_variables(model, weights, training.data.seed)  # its notes are of the classifier
    values = features(jax.device_put(variables, replicated(mesh)), "features")
    return lambda fold: values
