"""From a configuration to a run of gradient-boosted trees: its folder, its folds and their predictions."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from jaxlesion.boosting.features import (
    Features,
    Schema,
    check_left_out,
    compare_within,
    features,
    number_columns,
    schema_from_json,
)
from jaxlesion.boosting.trees import fit_member, lightgbm, log_odds, read_members, write_members
from jaxlesion.core import fields
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import TabularConfig, check_tabular
from jaxlesion.core.files import write_atomic
from jaxlesion.core.hooks import SILENT, Hooks
from jaxlesion.core.outputs import check_folder
from jaxlesion.data.dataset import fingerprint
from jaxlesion.data.folds import assign, describe, subset, training_pool, training_rows
from jaxlesion.data.leaks import refuse_telling_counts, telling_columns
from jaxlesion.data.metadata import almost_numbers, usable_columns
from jaxlesion.data.open import open_metadata
from jaxlesion.data.predictions import predictions_table, read_predictions, write_predictions
from jaxlesion.runs.manifest import make_manifest
from jaxlesion.runs.selection import choose_folds
from jaxlesion.runs.store import Run, check_free, model_name

FEATURES = "features.json"
DIGESTS = "sha256"  # in FEATURES: of each member's file; earlier versions wrote none
CLOSEST = 1e-7  # of a probability to 0 or 1, before its logit is taken


def train_tabular(config: TabularConfig, hooks: Hooks = SILENT) -> tuple[Run, pd.DataFrame]:
    """Train the wanted folds of a run, new or existing; with `resume` those that are missing.

    Returns:
        The run, and its lesions with folds.

    Raises:
        InputError: whatever about the data or the run the caller must put right.
    """
    lightgbm()
    check_tabular(config)
    config = _locate(config)
    run, lesions = _open(config, hooks)
    if schemas := {fold: _schema(config, lesions, fold) for fold in _folds(run, config)}:
        columns = number_columns(schemas.values())
        compared = compare_within(lesions, columns, config.features, held_out_logits(run, lesions))
    for fold, schema in schemas.items():
        _train_fold(run, lesions, features(lesions, compared, schema), schema, fold, hooks)
    run.collect_oof()
    return run, lesions


def _locate(config: TabularConfig) -> TabularConfig:
    if config.data_dir is None:
        raise InputError("give --data-dir, the folder with train-metadata.csv")
    changes: dict[str, Any] = {"data_dir": config.data_dir.resolve()}
    if config.run_dir is None:
        changes["run_dir"] = Path("ckpt") / f"tabular-{time.strftime('%Y%m%d-%H%M%S')}"
    if config.data.table is not None:
        changes["data.table"] = config.data.table.resolve()
    changes["features.runs"] = tuple(folder.resolve() for folder in config.features.runs)
    return fields.replace(config, changes)


def _open(config: TabularConfig, hooks: Hooks) -> tuple[Run, pd.DataFrame]:
    """Open the run, created if need be, and its lesions with folds."""
    new = not (config.run_dir / "config.json").is_file()
    if new:
        check_folder("--run-dir", config.run_dir)
        check_free(config.run_dir)
    dataset = open_metadata(config.data_dir, layout=config.data, say=hooks.say)
    if new:
        lesions = assign(subset(dataset.lesions, config.data.max_records, config.data.seed), config.folds)
        _check_columns(lesions, config, hooks.say)
        for fold in choose_folds(config.fold, sorted(set(lesions["fold"].tolist()))):
            _schema(config, lesions, fold).check(lesions, dataset.metadata)
        for folder in config.features.runs:
            scores_of(Run.open(folder), lesions)
        manifest = make_manifest(fingerprint(dataset), len(lesions), {"name": "none", "sha256": None}, ["cpu"])
        run = Run.create(config.run_dir, config, lesions, manifest)
        for line in (f"a new run: {config.run_dir}", *describe(lesions, config.folds)):
            hooks.say(line)
        return run, run.lesions(dataset)
    run = Run.open(config.run_dir)
    run.check_same(config, fingerprint(dataset))
    return run, run.lesions(dataset)


def _check_columns(lesions: pd.DataFrame, config: TabularConfig, say: Callable[[str], None]) -> None:
    """Refuse comparisons that would see the label, and name columns that are suspect."""
    if config.features.relative:
        refuse_telling_counts(lesions, "; leave comparisons out by --features.relative without a value")
    check_left_out(lesions, config.features.without)
    everywhere = np.ones(len(lesions), bool)
    Schema.of(lesions, everywhere, config.features)
    table, categories, left_out = usable_columns(lesions, everywhere)
    for column, reason in left_out.items():
        say(f"without {column} ({reason})")
    for column, why in almost_numbers(table, categories).items():
        say(f"{column} is taken as text, a category for each value: {why}; correct or empty these")
    for column, area in telling_columns(lesions).items():
        say(f"{column} alone tells the label (ROC AUC {area:.4f}): was it known before the biopsy?")


def _folds(run: Run, config: TabularConfig) -> list[int]:
    wanted = choose_folds(config.fold, run.fold_numbers())
    finished = [k for k in wanted if run.fold(k).finished]
    if finished and not config.resume:
        raise InputError(
            f"{run.folder}: fold {finished[0]} is finished: add --resume to train what is missing, or give another "
            "--run-dir"
        )
    return [k for k in wanted if k not in finished]


def scores_of(other: Run, lesions: pd.DataFrame) -> np.ndarray:
    """Return another run's out-of-fold logits [n] of the lesions of a run.

    Raises:
        InputError: it lacks a lesion, or has another fold for one, so that predictions would have seen the label.
    """
    path = other.folder / "oof.csv"
    if not path.is_file():
        raise InputError(f"{other.folder} has no out-of-fold predictions: train all its folds first")
    table = read_predictions(path).set_index("isic_id")
    ids = lesions["isic_id"]
    if (missing := ~ids.isin(table.index)).any():
        raise InputError(
            f"{path}: lacks {missing.sum():,} of {len(ids):,} lesions, {ids[missing].iloc[0]} first; train all its "
            "folds on the same rows"
        )
    theirs = table["fold"].loc[ids].to_numpy(float)
    if (differ := theirs != lesions["fold"].to_numpy()).any():
        first = int(differ.argmax())
        raise InputError(
            f"{path}: {ids.iloc[first]} is in fold {theirs[first]:.0f} there and {lesions['fold'].iloc[first]} here, "
            f"so a prediction would have seen its label; train --folds.file {other.folder / 'folds.csv'}"
        )
    return to_logit(table["prediction"].loc[ids].to_numpy(np.float64))


def to_logit(probability: np.ndarray) -> np.ndarray:
    """Return the log odds, finite for 0 and 1 too."""
    return logit(np.clip(probability, CLOSEST, 1 - CLOSEST))


def held_out_logits(run: Run, lesions: pd.DataFrame) -> np.ndarray | None:
    """Return the logits [n, runs] that the runs on images have of a run's own lesions; None without such runs."""
    others = run.config.features.runs
    return np.stack([scores_of(Run.open(folder), lesions) for folder in others], 1) if others else None


def _schema(config: TabularConfig, lesions: pd.DataFrame, fold: int) -> Schema:
    """Return the schema of a fold, by the rows that its trees may see."""
    seen = np.zeros(len(lesions), bool)
    seen[training_pool(lesions, fold, config.sampling, config.data.seed)] = True
    return Schema.of(lesions, seen, config.features)


def _train_fold(run: Run, lesions: pd.DataFrame, inputs: Features, schema: Schema, fold: int, hooks: Hooks) -> None:
    """Train one fold's bag; write it, and then its predictions."""
    config, folder = run.config, run.fold(fold)
    seed = config.data.seed
    with folder.lock():
        target = lesions["target"].to_numpy()
        members = []
        draws = [training_rows(lesions, fold, config.sampling, seed, draw) for draw in range(config.trees.bag)]
        title = f"fold {fold}: {config.trees.bag} x {config.trees.trees} trees on {len(draws[0]):,} rows"
        with hooks.progress(title, config.trees.bag * config.trees.trees, images=0) as meter:
            for number, rows in enumerate(draws):
                own = int(np.random.SeedSequence((seed, fold, number)).generate_state(1)[0])
                members.append(fit_member(inputs, rows, target, config.trees, own, meter.advance))
        record = schema.to_json() | {DIGESTS: write_members(folder.folder, members)}
        write_atomic(folder.folder / FEATURES, json.dumps(record, indent=2) + "\n")
        held = np.flatnonzero(lesions["fold"].to_numpy() == fold)
        prediction = expit(log_odds(members, inputs.values[held]))
        name = model_name(fold, config.trees.trees)
        write_predictions(folder.oof, predictions_table(lesions.iloc[held], prediction, name, fold))


def read_fold(run: Run, fold: int) -> tuple[Schema, Callable[[Features], list[Any]]]:
    """Read a finished fold: its schema, and a function that reads its bag, given the features it is used on."""
    folder = run.fold(fold).folder
    path = folder / FEATURES
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: not readable as JSON ({e}); put back what training wrote") from None
    schema, digests = schema_from_json(record, path), record.get(DIGESTS)
    if not isinstance(digests, dict | None):
        raise InputError(f"{path}: holds no digests of trees; put back what training wrote")
    return schema, lambda inputs: read_members(folder, run.config.trees.bag, inputs.names, digests)
