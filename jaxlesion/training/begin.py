"""Begin a run, or open the one that is there: its folder, data, folds and first weights."""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxlesion.core import fields
from jaxlesion.core.config import ALL_ROWS, DistributedConfig, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.core.hooks import SILENT, Hooks, ignore
from jaxlesion.core.outputs import check_folder
from jaxlesion.data.batches import Batches, open_batches, steps_per_epoch
from jaxlesion.data.cache import CACHE
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.folds import (
    assign,
    describe,
    group_numbers,
    group_weights,
    subset,
    training_pool,
    training_rows,
    validation_rows,
)
from jaxlesion.data.near import across_folds, kept_hashes
from jaxlesion.data.open import open_dataset
from jaxlesion.data.schema import KEYS
from jaxlesion.model.registry import build_model, find_backbone
from jaxlesion.model.weights import find_weights, read_variables
from jaxlesion.runs.manifest import make_manifest
from jaxlesion.runs.selection import choose_folds, folds_to_train
from jaxlesion.runs.store import Run, check_free, difference
from jaxlesion.runtime.processes import first_alone, from_first, in_turn, process_count, process_index

DEMO_NOTE = "The figures of drawn lesions mean nothing clinically."


@dataclass(frozen=True)
class OpenRun:
    """A run with all that training its folds needs.

    Args:
        run: existing.
        lesions: of the run, with folds, in the order of training.
        batches: of these lesions.
        weights: a safetensors file; None for random ones.
    """

    run: Run
    lesions: pd.DataFrame
    batches: Batches
    weights: Path | None


def begin(config: TrainConfig, hooks: Hooks = SILENT) -> OpenRun:
    """Open the run in `config.run_dir`, created if need be, with its data and weights.

    Raises:
        InputError: whatever about the data, the weights or the run the caller must put right.
    """
    _check_backend(config)
    find_backbone(config.model.variant)
    if process_index() == 0 and not (config.run_dir / "config.json").is_file():
        check_folder("--run-dir", config.run_dir)
        check_free(config.run_dir, or_run=True)  # another process may have just made it
    columns = (*KEYS, config.folds.group, config.sampling.weight_by, *config.model.auxiliary)
    dataset = open_dataset(config.data_dir, layout=config.data, columns=columns, say=hooks.say)
    with in_turn():
        weights = _weights(config)
    run, lesions = open_run(config, dataset, weights, hooks)
    if config.fold == "none":
        from_first(lambda: add_pixels(config, run, lesions, dataset, hooks))
    if dataset.unused_images:
        hooks.say(f"{dataset.unused_images:,} images have no row in {dataset.metadata.name} and are ignored")
    with in_turn():
        batches = open_batches(config.data, lesions, dataset, run.manifest["data"]["images"])
    return OpenRun(run, lesions, batches, weights)


def _check_backend(config: TrainConfig) -> None:
    """Check that what augments on the host is installed.

    Raises:
        InputError: it is not.
    """
    wanted = ("albumentations", "cv2", "tensorflow") if config.augment.backend == "albumentations" else ()
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"--augment.backend albumentations needs {' and '.join(missing)}, which cannot be imported: install what "
            "pip check names, or give --augment.backend jax, which needs none"
        )


def _weights(config: TrainConfig) -> Path | None:
    """Find the first weights; None where there are none, or where those of a run are gone that needs them no more.

    Raises:
        InputError: they are needed, and not there.
    """
    try:
        return find_weights(config.weights, config.model.variant)
    except InputError:
        if not (config.run_dir / "config.json").is_file():
            raise
        run = Run.open(config.run_dir)
        if all(run.fold(k).has_checkpoint for k in folds_to_train(run, config)):
            return None
        digest = run.manifest["weights"]["sha256"] or ""
        raise InputError(
            f"{run.folder}: the weights that it was begun from ({config.weights}, SHA-256 {digest[:12]}...) are not "
            "there any more: give --weights that file"
        ) from None


def locate(config: TrainConfig, say: Callable[[str], None] = ignore) -> TrainConfig:
    """Fill in the folders of a configuration; draw the demo lesions if no data is named."""
    changes: dict[str, Any] = {}
    if config.run_dir is None:
        changes["run_dir"] = Path("ckpt") / f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    if config.data_dir is None:
        from jaxlesion.data.demo import write_demo

        say(f"No --data-dir: training on drawn demo lesions. {DEMO_NOTE}")
        changes["data_dir"] = write_demo(Path("ckpt") / "demo-data")
    config = fields.replace(config, changes)
    if config.data.table is not None:
        config = fields.replace(config, {"data.table": config.data.table.resolve()})
    return fields.replace(config, {"data_dir": config.data_dir.resolve()})


def agree(config: TrainConfig) -> TrainConfig:
    """Take the first process's run, folds and saves into the configuration of this process.

    Raises:
        InputError: it would be another run.
    """
    if process_count() == 1:
        return config
    first = fields.from_dict(from_first(lambda: fields.to_dict(config)), "the first process", TrainConfig)
    if (differs := difference(first, config)) is not None:
        option, theirs, ours = differs
        raise InputError(f"{option} is {ours}, and {theirs} in process 0: give all processes the same options")
    same = ("run_dir", "fold", "resume", "checkpoint", "data.on_device")
    return fields.replace(config, {name: fields.lookup(first, name) for name in same})


def open_run(
    config: TrainConfig, dataset: Dataset, weights: Path | None, hooks: Hooks = SILENT
) -> tuple[Run, pd.DataFrame]:
    """Open the run in `config.run_dir`, created if need be.

    Every image is read once: its hash is taken, and for a new run its header checked.

    Returns:
        The run, and its lesions with their folds in the order of training.

    Raises:
        InputError: data or weights are not those of the run, or a new one could not be trained.
    """
    new = not (config.run_dir / "config.json").is_file()
    data = fingerprint(dataset, sound=new)
    weights_sha = sha256(weights) if weights else None
    with first_alone():
        if not (config.run_dir / "config.json").is_file():
            _create(config, dataset, data, weights, weights_sha, hooks)
        run = Run.open(config.run_dir)  # another process may have created it meanwhile, with other options
        run.check_same(config, data)
        if run.manifest["weights"]["sha256"] != weights_sha and (weights or config.weights == "none"):
            raise InputError(
                f"{run.folder} was started from other weights than {config.weights}: give those, or another --run-dir"
            )
        return run, run.lesions(dataset)


def _create(
    config: TrainConfig,
    dataset: Dataset,
    data: dict[str, str],
    weights: Path | None,
    weights_sha: str | None,
    hooks: Hooks,
) -> None:
    if process_index() > 0:
        raise InputError(
            f"{config.run_dir} is not there, but process 0 has made it: give a folder that all hosts share"
        )
    lesions = assign(subset(dataset.lesions, config.data.max_records, config.data.seed), config.folds)
    check_trainable(config, lesions, weights)
    source = {"name": config.weights, "sha256": weights_sha}
    manifest = make_manifest(data, len(lesions), source, [str(d.device_kind) for d in jax.devices()])
    kept = fields.replace(config, {"distributed": DistributedConfig()})  # the next start may be another
    some = sampled_rows(config, lesions)
    hashes = _hashes(config, dataset, some["isic_id"].tolist(), data["images"], hooks)
    near = _near_duplicates(config, some, hashes[:, :4], hooks)
    run = Run.create(config.run_dir, kept, lesions, manifest | {"near_duplicates": near})
    run.write_pixels(dict(zip(some["isic_id"], map(bytes, hashes[:, 4:]), strict=True)))
    hooks.say(f"a new run: {config.run_dir}")
    for line in describe(lesions, config.folds):
        hooks.say(line)


def sampled_rows(config: TrainConfig, lesions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that some fold would train on or score during training."""
    samples = [
        rows(lesions, fold, config.sampling, config.data.seed)
        for fold in np.unique(lesions["fold"]).tolist()
        for rows in (training_pool, validation_rows)
    ]
    return lesions.iloc[np.unique(np.concatenate(samples))].reset_index(drop=True)


def add_pixels(config: TrainConfig, run: Run, lesions: pd.DataFrame, dataset: Dataset, hooks: Hooks) -> None:
    """Add the digests of those images that the model of all rows is trained on and no fold is."""
    known = run.pixels()
    ids = lesions["isic_id"].iloc[training_pool(lesions, ALL_ROWS, config.sampling, config.data.seed)]
    if new := [isic_id for isic_id in ids if isic_id not in known]:
        hashes = _hashes(config, dataset, new, run.manifest["data"]["images"], hooks)
        run.write_pixels(known | dict(zip(new, map(bytes, hashes[:, 4:]), strict=True)))


def _hashes(config: TrainConfig, dataset: Dataset, ids: list[str], digest: str, hooks: Hooks) -> np.ndarray:
    """Return the perceptual hash and the pixel digest of images, uint64 [n, 6], from a file where it is kept."""
    path = CACHE / f"{digest[:24]}.hashes.npz" if config.data.cache else None
    with hooks.progress("looking for near-duplicates", len(ids)) as meter:
        return kept_hashes(dataset.images, ids, path, config.data.workers, meter.advance)


def _near_duplicates(config: TrainConfig, some: pd.DataFrame, hashes: np.ndarray, hooks: Hooks) -> dict[str, int]:
    """Count the sampled images that look like one of another fold, and say which is the first."""
    table = across_folds(some, hashes)
    if len(table):
        first = table[table["group"] == table["group"].iloc[0]].drop_duplicates("fold")
        named = " and ".join(f"{isic_id} (fold {fold})" for isic_id, fold in first[["isic_id", "fold"]].values[:2])
        hooks.say(
            f"{len(table):,} of {len(some):,} images look like one of another fold, such as {named}: metrics may be "
            "too good; python -m jaxlesion.duplicates --near lists them"
        )
    return {"images": len(some), "across_folds": len(table)}


def check_trainable(config: TrainConfig, lesions: pd.DataFrame, weights: Path | None) -> None:
    """Check, before a run is written, whatever would stop its training at the first step.

    Raises:
        InputError: a fold that does not exist or does not fill a batch, rows without a group, columns without groups,
            or weights that do not fit.
    """
    for fold in choose_folds(config.fold, np.unique(lesions["fold"]).tolist()):
        rows = training_rows(lesions, fold, config.sampling, config.data.seed)
        steps_per_epoch(rows, config.data.batch_size)
        pool = training_pool(lesions, fold, config.sampling, config.data.seed)
        group_weights(lesions, pool, config.sampling.weight_by)
    group_numbers(lesions, config.model.auxiliary)
    model = build_model(config.model)
    if weights is not None:
        read_variables(model, weights)
