"""Predict a test set, or single files, by the mean of a run's folds or by its model of all rows."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.config import Layout
from jaxlesion.core.files import is_stream, sha256, write_atomic
from jaxlesion.core.hooks import SILENT, Hooks, Meter
from jaxlesion.data.batches import Batches
from jaxlesion.data.cache import CACHE, ImageCache
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.open import open_dataset, open_metadata
from jaxlesion.data.predictions import predictions_as_text, read_predictions, write_predictions, write_submission
from jaxlesion.data.sources import FileImages
from jaxlesion.inference.engines import EngineName
from jaxlesion.inference.experts import explain_new, networks, predict_new
from jaxlesion.inference.overlap import Overlap
from jaxlesion.inference.predictor import Ensemble, Members, Which, data_config, finished_folds
from jaxlesion.inference.shards import Part, Shards
from jaxlesion.learning.loop import decode_ahead
from jaxlesion.runs.store import Run


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction by a run.

    Args:
        checkpoint: of each fold.
        calibrated: whether to correct the probabilities by what the run stored.
        batch_size: images per step; None for the run's.
        shard_rows: rows that are written at a time.
        cache: whether to keep the decoded images.
        part: the shards that this process makes.
        views: of each image, see `make_predict_step`.
        fold: the models that predict, see `members_of`.
        engine: that runs the networks, see `choose_engine`.
    """

    checkpoint: Which
    calibrated: bool
    batch_size: int | None
    shard_rows: int
    cache: bool
    part: Part
    views: int = 1
    fold: Members | None = None
    engine: EngineName = "jax"


def predict_files(
    run: Run, paths: Sequence[Path], options: PredictOptions, progress: type[Meter] = Meter
) -> tuple[pd.DataFrame, str]:
    """Predict single image files; return their Predictions table, a row a path, and the name of the ensemble.

    Raises:
        InputError: whatever is wrong with run or images.
    """
    images = FileImages(paths)
    names = [str(path) for path in paths]
    lesions = pd.DataFrame({"isic_id": [os.fsencode(name).decode(errors="backslashreplace") for name in names]})
    batches = Batches(images, names, None, data_config(run, options.batch_size))
    ensemble = _ensemble(run, batches, options)
    with progress(ensemble.title, len(lesions)) as meter:
        return ensemble.predict(lesions, range(len(lesions)), meter.advance), ensemble.name


def predict_dataset(
    run: Run, dataset: Dataset, out: Path, submission: Path | None, options: PredictOptions, hooks: Hooks = SILENT
) -> bool:
    """Make the shards of this part that are missing, and merge all of them if none is missing then.

    Images are read once and in order, so no cache of decoded ones is filled unless asked for; memory is that of the
    ids, of the table of one shard, and of a few batches.

    Args:
        run: with a finished fold, or a finished model of all rows.
        dataset: the test set.
        out: the Predictions table; where `is_stream` is true of it, a kill loses the shards.
        submission: the competition's form, written too unless None.
        options: see `PredictOptions`.
        hooks: see `Hooks`.

    Returns:
        Whether the table has been written.

    Raises:
        InputError: whatever is wrong with run, images or shards.
    """
    lesions, ids = dataset.lesions, dataset.lesions["isic_id"].tolist()
    batches = Batches(dataset.images, ids, None, data_config(run, options.batch_size))
    ensemble = _ensemble(run, batches, options)
    images = fingerprint(dataset, sound=True)  # before a folder of shards is made
    overlap = Overlap(run, ensemble.folds, ids)
    for note in overlap.ids_note():
        hooks.say(note)
    batches.watch = overlap.watch
    if options.cache:
        read = batches.config
        batches.cache = ImageCache(CACHE, images["images"], ids, read.image_size, read.antialias)
    shards = _open_shards(run, ensemble, out, ids, images, options)
    own, missing = options.part.shards(len(shards)), shards.missing(options.part)
    if len(missing) < len(own):
        hooks.say(f"{len(own) - len(missing)} of {len(own)} shards are in {shards.folder} already")
    if options.cache:
        rows = [row for shard in missing for row in shards.rows(shard)]
        decode_ahead(batches, rows, again=True, progress=hooks.progress)
    with hooks.progress(ensemble.title, sum(len(shards.rows(shard)) for shard in missing)) as meter:
        for shard in missing:
            rows = shards.rows(shard)
            shards.write(shard, ensemble.predict(lesions.iloc[rows], rows, meter.advance))
    for note in overlap.pixels_note():
        hooks.say(note)
    rate = f" ({meter.rate:,.0f} img/s)" if meter.rate else ""
    if not shards.merge():
        left = f"{len(shards.missing())} of {len(shards)} shards are missing"
        part = f"part {options.part.index}/{options.part.count}"
        hooks.say(f"{part} is done; {left}, and the last part to finish writes {out}")
        return False
    hooks.say(f"{len(ids):,} predictions in {out}, by the {ensemble.name}{rate}")
    if submission is not None:
        write_submission(submission, shards.predictions() if is_stream(out) else predictions_as_text(out))
        hooks.say(f"submission in {submission}")
    shards.remove()
    return True


def predict_table(
    run: Run,
    data_dir: Path,
    layout: Layout,
    out: Path,
    submission: Path | None,
    options: PredictOptions,
    hooks: Hooks = SILENT,
    explanation: Path | None = None,
) -> None:
    """Predict the rows of a test table by trees or a stack, and write their Predictions table.

    Images are opened only where a network is part of the run; each network's table is written beside `out` first, so
    that a kill loses little, and removed at the end.

    Args:
        run: of trees, or a stack.
        data_dir: with the table.
        layout: of the table.
        out: the Predictions table.
        submission: the competition's form, written too unless None.
        options: see `PredictOptions`; those of networks are theirs.
        hooks: see `Hooks`.
        explanation: the features that moved each prediction of trees most, written too unless None.

    Raises:
        InputError: whatever is wrong with run, table or images.
    """
    parts: list[Path] = []

    @cache
    def by_network(network: Run) -> np.ndarray:
        own = sha256(network.folder / "config.json")[:8]
        beside = Path(tempfile.gettempdir()) / f"{os.getpid()}.csv" if is_stream(out) else out
        parts.append(beside.with_name(f"{beside.name}.{network.folder.name}-{own}.csv"))
        predict_dataset(network, dataset, parts[-1], None, replace(options, calibrated=False, fold=None), hooks)
        return read_predictions(parts[-1])["prediction"].to_numpy(np.float64)

    read = open_dataset if any(networks(run)) else open_metadata
    dataset = read(data_dir, "test", layout, say=hooks.say)
    overlap = Overlap(run, finished_folds(run), dataset.lesions["isic_id"].tolist())
    for note in overlap.ids_note():
        hooks.say(note)
    calibration = run.calibration() if options.calibrated else None
    table, each, models = predict_new(run, dataset, by_network)
    if calibration is not None:
        calibration.check(models)
        table["prediction"] = calibration.new_rows(each, models)
        table["model"] += ", calibrated"
    write_predictions(out, table)
    hooks.say(f"{len(table):,} predictions in {out}, by the {table['model'].iloc[0]}")
    if submission is not None:
        rows = zip(table["isic_id"], map(str, table["prediction"].to_numpy()), strict=True)
        write_submission(submission, rows)
        hooks.say(f"submission in {submission}")
    if explanation is not None:
        write_atomic(explanation, explain_new(run, dataset, by_network).to_csv(index=False, lineterminator="\n"))
        hooks.say(f"the features that moved each prediction most in {explanation}")
    for part in parts:
        part.unlink(missing_ok=True)


def _ensemble(run: Run, batches: Batches, options: PredictOptions) -> Ensemble:
    how = {"fold": options.fold, "calibrated": options.calibrated, "views": options.views, "engine": options.engine}
    return Ensemble(run, batches, options.checkpoint, **how)


def _open_shards(
    run: Run, ensemble: Ensemble, out: Path, ids: list[str], images: dict[str, str], options: PredictOptions
) -> Shards:
    config = ensemble.batches.config
    key = {
        "checkpoints": ensemble.name,
        "weights": ensemble.digest(),
        "network": dataclasses.asdict(run.config.model)
        | {"image_size": config.image_size, "antialias": config.antialias},
        "calibration": sha256(run.folder / "calibration.json") if options.calibrated else None,
        **images,
        "batch size": config.batch_size,
    }
    # Whole batches, the same for any number of rows in a shard: then not even the last bit depends on it.
    return Shards(out, ids, -(-options.shard_rows // config.batch_size) * config.batch_size, key)
