"""Compare recipes of training with the paper's: each change alone, then several together.

    python -m experiments.recipes --data-dir isic-2024-challenge --out recipes

Folds 0 and 1 choose: a recipe is made on what they say. Folds 2 to 4 decide: give `--fold 2 3 4 --only paper best`.
Prints the planned hours, trains what is missing into `--out`/runs, and writes `recipes.md` and `recipes.json`, a line
as soon as its runs are finished. Give the same command again to resume. Hardware: on two cores about 28 images a
second at 128 px, ten minutes a fold and seed; on a GPU add `--backend jax --jobs 12`, which needs no TensorFlow and
trains as many runs side by side. Result: docs/recipes.md.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from experiments.candidates import CANDIDATES, FIRST
from experiments.recipes_page import CHOOSING, METRICS, page
from experiments.results import differences, environment, hash_of_ids
from experiments.together import missing_folds, train_plainly, train_together
from jaxlesion.core import fields
from jaxlesion.core.config import TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256, without_nan, write_atomic
from jaxlesion.data.batches import open_batches
from jaxlesion.data.dataset import fingerprint
from jaxlesion.data.open import open_dataset
from jaxlesion.data.predictions import CALIBRATED, concatenate, read_predictions, write_predictions
from jaxlesion.data.schema import KEYS
from jaxlesion.evaluation.bootstrap import RESAMPLES
from jaxlesion.evaluation.calibration import logit
from jaxlesion.evaluation.compare import Comparison, compare
from jaxlesion.evaluation.summary import POOLED, EvalOptions, summarise
from jaxlesion.inference.predictor import predict_out_of_fold
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse, parse_train
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.terminal import say

IDENTITY = ("name", "base_size", "folds", "seeds")  # of a line
SPENT = "core_seconds.json"
RATE, AT = 28.0, 128  # images a second that two cores train on at 128 px: for the plan, before anything was measured
SHRUNK = (
    *("--model.variant", "tiny", "--data.image-size", "32", "--data.batch-size", "8", "--epochs", "1"),
    *("--optim.warmup-steps", "2", "--weights", "none", "--sampling.negatives-per-positive", "1"),
)


@dataclass(frozen=True)
class Recipes:
    """Compare recipes of training with the paper's on the same patients, and write a table."""

    data_dir: Path
    """Folder with train-metadata.csv and train-image.hdf5."""
    out: Path = Path("recipes")
    """Folder of the runs, recipes.json and recipes.md."""
    only: tuple[str, ...] = ()
    """Names of candidates [default: all]; the paper's recipe is always among them."""
    fold: tuple[int, ...] = CHOOSING
    """Folds to train: 0 and 1 choose, 2 to 4 decide."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training; folds are the same for all."""
    weights: str = "imagenet"
    """imagenet, or a .safetensors file in timm's names."""
    image_size: int = AT
    """Pixels, where the candidate is not about them."""
    negatives_per_positive: float = 10.0
    """Benign rows for each malignant one, where the candidate is not about them."""
    backend: Literal["jax", "albumentations"] | None = None
    """Augmentation: inside the step or on the host [default: the preset's]."""
    jobs: int = 1
    """Runs that are trained side by side; a GPU has room for a dozen, a few cores for one."""
    resamples: int = RESAMPLES
    """Draws for the intervals."""
    shrink: bool = False
    """Try everything in a minute: a tiny random network at 32 px for one epoch."""


def recipes(config: Recipes) -> Path:
    """Train what is missing and write the table; return its path.

    Raises:
        InputError: no such candidate, or whatever training refuses.
    """
    names = list(dict.fromkeys((FIRST, *(config.only or CANDIDATES))))
    if unknown := [name for name in names if name not in CANDIDATES]:
        raise InputError(f"--only {unknown[0]}: the candidates are {', '.join(CANDIDATES)}")
    if len(set(config.fold)) < 2:
        raise InputError("--fold: give two folds or more, since each is calibrated by others")
    say(plan(config, names))
    if config.jobs > 1:
        train_together(missing_runs(config, names), config.jobs, partial(ready, config))
    path = config.out / "recipes.md"
    for name in names:
        tables = predictions(config, name)
        if name == FIRST:
            first = tables
        keep(config.out, line(config, name, stacked(tables), stacked(first)))
        write_atomic(path, page(load(config.out)))
        say(f"{name}: {path}")
    return path


def training(config: Recipes, name: str, seed: int) -> TrainConfig:
    """Return the configuration of a candidate's run."""
    name = CANDIDATES[name].trained_as or name
    candidate = CANDIDATES[name]
    common = ["--preset", candidate.preset, "--data-dir", str(config.data_dir), "--weights", config.weights]
    common += ["--model.dtype", "float32"]  # on every machine, so that lines can be compared
    common += ["--folds.stratify", "--data.image-size", str(config.image_size), "--data.seed", str(seed)]
    common += ["--sampling.negatives-per-positive", f"{config.negatives_per_positive:g}"]
    last = ["--augment.backend", config.backend] if config.backend else []
    parsed = parse_train([*common, *candidate.options.split(), *last, *(SHRUNK if config.shrink else ())])
    folder = config.out / "runs" / f"{name}-{config.image_size}-s{seed}"
    return fields.replace(parsed, {"run_dir": folder, "fold": config.fold, "resume": True})


def predictions(config: Recipes, name: str) -> list[pd.DataFrame]:
    """Return a candidate's out-of-fold Predictions of each seed, calibrated, training the folds that are missing.

    What is made of all seeds together stands there once for each.
    """
    runs = [trained(training(config, name, seed)) for seed in config.seeds]
    views, over_seeds = CANDIDATES[name].views, CANDIDATES[name].over_seeds
    if over_seeds == "weights":
        tables = [of_views(runs[0], config.fold, views, runs[1:])]
    elif views > 1:
        tables = [of_views(run, config.fold, views) for run in runs]
    else:
        tables = [read_predictions(run.folder / "oof.csv") for run in runs]
    tables = [table[table["fold"].isin(config.fold)].reset_index(drop=True) for table in tables]
    if over_seeds == "predictions":
        mean = np.mean([logit(table["prediction"]) for table in tables], 0)
        tables = [tables[0].assign(prediction=special.expit(mean))]
    calibrated = []
    for table, run in zip(tables, runs, strict=False):
        fitted = run.fit_calibration(table)  # on these folds, whatever others there are
        calibrated.append(table.assign(**{CALIBRATED: fitted.out_of_fold(table["prediction"], table["fold"])}))
    return calibrated * (len(runs) // len(calibrated))


def trained(wanted: TrainConfig) -> Run:
    """Return a run with its folds finished, and count what it takes."""
    with core_seconds(wanted.run_dir):
        return train_plainly(wanted)


def ready(config: Recipes, wanted: TrainConfig) -> Run:
    """Return a run with its folds finished and predicted from as many views as its candidates ask for."""
    run = trained(wanted)
    for name in config.only or CANDIDATES:
        candidate = CANDIDATES[name]
        if candidate.views == 1 or candidate.over_seeds == "weights":
            continue
        if wanted.run_dir in [training(config, name, seed).run_dir for seed in config.seeds]:
            of_views(run, config.fold, candidate.views)
    return run


def missing_runs(config: Recipes, names: list[str]) -> list[TrainConfig]:
    """Return the configurations of the runs that are not finished, the first seed of all candidates first."""
    trained_as = dict.fromkeys(CANDIDATES[name].trained_as or name for name in names)
    wanted = [training(config, name, seed) for seed in config.seeds for name in trained_as]
    return [one for one in wanted if missing_folds(one)]


def of_views(run: Run, folds: Sequence[int], views: int, others: Sequence[Run] = ()) -> pd.DataFrame:
    """Return the out-of-fold Predictions of several views of each image, by the mean of all runs' weights.

    They are kept in each fold's folder, for the next table, and for a machine without checkpoints.
    """
    paths = {fold: _kept(fold, views, (run, *others)) for fold in folds}
    if missing := [fold for fold, path in paths.items() if not path.is_file()]:
        dataset, lesions = run.open_data()
        batches = open_batches(run.config.data, lesions, dataset, fingerprint(dataset)["images"])
        made = predict_out_of_fold(run, lesions, batches, "last", ProgressBar, views, others, missing)
        for fold, table in made.groupby("fold"):
            write_predictions(paths[fold], table)
    return concatenate([read_predictions(path) for path in paths.values()])


def _kept(fold: int, views: int, runs: Sequence[Run]) -> Path:
    """Return the file of predictions that are made by these runs' checkpoints of a fold, named by a digest of them."""
    made_by = "".join(sha256(run.fold(fold).oof) for run in runs)
    return runs[0].fold(fold).folder / f"views-{views}-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}.csv"


def stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the Predictions of several seeds as one table, whose folds are numbered on from seed to seed.

    A row is ranked among the rows of its own fold and seed, and a patient is left out of all seeds at once, so that an
    interval is by patient and the value about the mean over seeds.
    """
    most = max(int(table["fold"].max()) for table in tables) + 1
    parts = []
    for number, table in enumerate(tables):
        patient = table["patient_id"].fillna(table["isic_id"])
        ids, fold = table["isic_id"] + f"/{number}", table["fold"].astype(int) + most * number
        parts.append(table.assign(patient_id=patient, isic_id=ids, fold=fold))
    return pd.concat(parts, ignore_index=True)


def line(config: Recipes, name: str, table: pd.DataFrame, first: pd.DataFrame) -> dict[str, Any]:
    """Return a finished candidate as JSON values: its metrics, and their differences to the paper's recipe."""
    options = EvalOptions(resamples=config.resamples)
    found = summarise({"rows": table.assign(probability=table[CALIBRATED])}, "rows", options)[POOLED]["rows"]
    against = compare(table, first, (name, FIRST), options) if name != FIRST else {}
    runs = [Run.open(training(config, name, seed).run_dir) for seed in config.seeds]
    own = table[table["isic_id"].str.endswith("/0")]
    own = own.assign(isic_id=own["isic_id"].str.removesuffix("/0"))
    costs = [] if CANDIDATES[name].trained_as else [spent(run) for run in runs if on_cpu(run)]
    return {
        "name": name,
        "change": CANDIDATES[name].change,
        "folds": list(config.fold),
        "seeds": list(config.seeds),
        "base_size": config.image_size,
        "image_size": runs[0].config.data.image_size,
        "data": f"{len(own):,} rows, {int(own['target'].sum()):,} malignant, SHA-256 of ids {hash_of_ids(own)[:12]}...",
        "values": {key: list(found[key]) for _, key in METRICS},
        "differences": {key: _difference(against[key]) for _, key in METRICS if key in against},
        "core_seconds": float(np.mean(costs)) if costs and None not in costs else None,
        "weights": Path(runs[0].manifest["weights"]["name"]).name,
        "options": differences(runs[0].config),
        "trained_on": "; ".join(sorted({trained_on(run) for run in runs})),
        "made": environment(),
    }


def _difference(one: Comparison) -> list[float | None]:
    """Return a difference and its interval."""
    return [one.difference, one.low, one.high]


@contextmanager
def core_seconds(folder: Path) -> Iterator[None]:
    """Add the processor time of what is done inside, interrupted or not, to that of a run, begun or not."""

    def finished() -> int:
        return len(Run.open(folder).finished_folds()) if (folder / "config.json").is_file() else 0

    began, done, path = time.process_time(), finished(), folder / SPENT
    before = json.loads(path.read_text()) if path.is_file() else {"folds": 0, "seconds": 0.0}
    try:
        yield
    finally:
        if (folder / "config.json").is_file():
            more = finished() - done
            seconds = before["seconds"] + time.process_time() - began
            write_atomic(path, json.dumps({"folds": before["folds"] + more, "seconds": seconds}))


def trained_on(run: Run) -> str:
    """Return the devices that a run was begun on, its version of JAX, and where it was augmented."""
    devices = Counter(run.manifest["devices"])
    named = ", ".join(f"{count} {name}" for name, count in sorted(devices.items()))
    where = "in the step" if run.config.augment.backend == "jax" else "by Albumentations"
    return f"{named} with jax {run.manifest['versions']['jax']}, augmented {where}"


def on_cpu(run: Run) -> bool:
    """Return whether a run was begun without an accelerator, beside whose time a core's says nothing."""
    return all(device == "cpu" for device in run.manifest["devices"])


def spent(run: Run) -> float | None:
    """Return the core seconds that a run took for each of its folds; None where they were not counted."""
    path = run.folder / SPENT
    counted = json.loads(path.read_text()) if path.is_file() else {"folds": 0}
    return counted["seconds"] / counted["folds"] if counted["folds"] else None


def plan(config: Recipes, names: list[str]) -> str:
    """Return a sentence on the runs that are missing and about how long they take."""
    folds, images = 0, 0.0
    lesions = open_dataset(config.data_dir, columns=KEYS).lesions
    for wanted in missing_runs(config, names):
        missing = len(missing_folds(wanted))
        sampled = lesions["target"].sum() * (1 + wanted.sampling.negatives_per_positive)
        share = 1 - 1 / wanted.folds.n
        folds += missing
        images += missing * wanted.epochs * sampled * share * (wanted.data.image_size / AT) ** 2
    hours = images / RATE / 3600
    return f"{len(names)} candidates, {folds} folds to train: about {hours:.1f} hours of two cores, less on a GPU"


def keep(folder: Path, done: dict[str, Any]) -> None:
    """Save a finished line in recipes.json, in place of an earlier one of the same candidate, size, folds and seeds."""
    others = [one for one in load(folder) if any(one[key] != done[key] for key in IDENTITY)]
    write_atomic(folder / "recipes.json", json.dumps(without_nan([*others, done]), indent=1) + "\n")


def load(folder: Path) -> list[dict[str, Any]]:
    """Read the finished lines."""
    path = folder / "recipes.json"
    return json.loads(path.read_text()) if path.is_file() else []


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: recipes(parse(Recipes, arguments(None), "recipes")))
