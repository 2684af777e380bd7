"""Neighbour searches shared by tables 8 and 9: one per kind of features, saved as Predictions tables."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.common import Context
from experiments.paper import TABLE8
from jaxlesion.core.files import write_atomic
from jaxlesion.core.hooks import Hooks
from jaxlesion.data.predictions import read_predictions, write_predictions
from jaxlesion.data.schema import feature_columns
from jaxlesion.evaluation.summary import Summary
from jaxlesion.inference.knn import KnnOptions, knn_predictions
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.terminal import say

_NOTE = (
    "Index: all rows of the other folds; queries: all rows of a fold; score: the share of malignant rows among the k "
    "nearest by Euclidean distance. At 0.5 half of the neighbours is enough, so an even k calls more rows malignant. "
    "The paper does not name its features: `embedding` are the pooled features of {network}, not trained further; "
    "`pixels` the crop at 32 x 32; `metadata` the table's columns, scaled and filled in by the other folds."
)


def note(context: Context) -> str:
    """Return the note on the search and its features, for results.md."""
    config, digest = context.config, context.search_key["weights"]
    weights = Path(config.weights).name + (f" (SHA-256 {digest[:12]}...)" if digest else "")
    return _NOTE.format(network=f"{config.model.variant} at {config.data.image_size} px with weights {weights}")


def features_of(context: Context) -> Sequence[str]:
    """Return the requested features; by default embedding, pixels, and metadata if the table has its columns."""
    if context.options.features:
        return context.options.features
    return "embedding", "pixels", *(["metadata"] if feature_columns(context.dataset.lesions) else [])


def searched(context: Context, features: str) -> dict[str, pd.DataFrame]:
    """Return the Predictions tables of the requested folds, by `k = 5` and so on, searching unless saved already."""
    folder = context.options.out / f"knn-{features}"
    fold = context.options.fold
    key = context.search_key | {"features": features, "fold": fold if fold == "all" else list(fold)}
    paths, made = {k: folder / f"k{k}.csv" for k in TABLE8}, folder / "made_from.json"
    if made.is_file() and json.loads(made.read_text()) == key and all(path.is_file() for path in paths.values()):
        say(f"{features}: searched before")
    else:
        made.unlink(missing_ok=True)
        tables = knn_predictions(_options(context, features), Hooks(say, ProgressBar))
        folder.mkdir(exist_ok=True)
        for k, path in paths.items():
            write_predictions(path, tables[k])
        write_atomic(made, json.dumps(key, indent=2) + "\n")
    return {f"k = {k}": read_predictions(path) for k, path in paths.items()}


def _options(context: Context, features: str) -> KnnOptions:
    training = context.config
    return KnnOptions(
        features=features,
        k=tuple(TABLE8),
        fold=training.fold,
        data_dir=context.data_dir,
        weights=training.weights,
        data=training.data,
        folds=training.folds,
        model=training.model,
    )


def by_features(parts: dict[str, Summary]) -> Summary:
    """Merge the summaries of all features into one, with parts such as `pixels, pooled`."""
    return {f"{features}, {part}": rows for features, tree in parts.items() for part, rows in tree.items()}
