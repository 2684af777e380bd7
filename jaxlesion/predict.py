"""python -m jaxlesion.predict: the mean of a run's folds on new lesions."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.data.batches import Batches
from jaxlesion.data.cache import CACHE, ImageCache
from jaxlesion.data.dataset import fingerprint, open_dataset
from jaxlesion.data.lesions import KEYS
from jaxlesion.data.predictions import predictions_as_text, write_predictions, write_submission
from jaxlesion.data.sources import FileImages
from jaxlesion.inference.predictor import Ensemble, data_config, decode_ahead
from jaxlesion.inference.shards import ROWS, Part, Shards
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import Meter, say
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse


@dataclass(frozen=True)
class PredictConfig:
    """Predict lesions that a run has not seen, by the mean of its finished folds."""

    run: Path
    """Folder of a run."""
    data_dir: Path | None = None
    """Folder with test-metadata.csv (only isic_id is needed) and test-image.hdf5 (or test-image/image/)."""
    image: tuple[Path, ...] = ()
    """Single image files, JPEG or PNG: a line is printed for each."""
    out: Path | None = None
    """Write the predictions there, as CSV, rows in the order of the test file [default: predictions.csv]."""
    submission: Path | None = None
    """Write the competition's form there too: isic_id,target."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of each fold predicts."""
    calibrated: bool = False
    """Correct the prior of each fold and apply the temperature that the run stored; model in the table says so."""
    batch_size: int | None = None
    """Images per step [default: the run's]. No prediction depends on it."""
    shard_rows: int = ROWS
    """Rows that are written at a time, beside --out: a kill loses no more. Rounded up to whole batches."""
    cache: bool = False
    """Keep the decoded images in ckpt/cache, and read what is there: for further predictions of the same images."""
    part: str | None = None
    """I/N, I from 0: make every N-th shard only. Who finishes last merges [default: as srun or mpirun says]."""


def predict(config: PredictConfig) -> None:
    """Predict and write.

    Raises:
        InputError: neither or both of --data-dir and --image; or whatever is wrong with run, images or options.
    """
    if (config.data_dir is None) == (not config.image):
        raise InputError("give one of --data-dir, a folder with test-metadata.csv, and --image, some files")
    if config.shard_rows < 1:
        raise InputError(f"--shard-rows must be at least 1, not {config.shard_rows}")
    part = Part.of(config.part, os.environ)
    if config.cache and (config.image or part.count > 1):  # several processes cannot fill one file
        raise InputError("--cache is for the images of --data-dir, predicted in one part: leave it out")
    run = Run.open(config.run)
    if config.image:
        _predict_files(config, run)
    else:
        _predict_table(config, run, part)


def _predict_files(config: PredictConfig, run: Run) -> None:
    images = FileImages(config.image)
    lesions = pd.DataFrame({"isic_id": list(images.ids)})
    batches = Batches(images, lesions["isic_id"], None, data_config(run, config.batch_size))
    ensemble = Ensemble(run, batches, config.checkpoint, calibrated=config.calibrated)
    with Meter(ensemble.title, len(lesions)) as meter:
        table = ensemble.predict(lesions, range(len(lesions)), lambda n: meter.tick(steps=n))
    for path, probability in zip(table["isic_id"], table["prediction"], strict=True):
        print(f"{path}\t{probability:.6g}")  # not through rich, which would turn the tab into spaces
    if config.out is not None:
        write_predictions(config.out, table)
        say(f"{len(table):,} predictions in {config.out}, by the {ensemble.name}")
    if config.submission is not None:
        write_submission(
            config.submission, zip(table["isic_id"], map(str, table["prediction"].to_numpy()), strict=True)
        )
        say(f"submission in {config.submission}")


def _predict_table(config: PredictConfig, run: Run, part: Part) -> None:
    """Make the shards of this part that are missing, and the table of all of them if none is missing then.

    Images are read once and in order, so no cache of decoded ones is filled unless asked for; memory is that of the
    ids, of the table of one shard, and of a few batches.
    """
    out = config.out or Path("predictions.csv")
    for option, path in (("--out", out), ("--submission", config.submission)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no such folder; make it, or give another path")
    dataset = open_dataset(config.data_dir, "test", columns=KEYS)
    lesions, ids = dataset.lesions, dataset.lesions["isic_id"].tolist()
    batches = Batches(dataset.images, ids, None, data_config(run, config.batch_size))
    ensemble = Ensemble(run, batches, config.checkpoint, calibrated=config.calibrated)
    size, images = batches.config.batch_size, fingerprint(dataset, sound=True)  # before a folder of shards is made
    if config.cache:
        batches.cache = ImageCache(CACHE, images["images"], ids, batches.config.image_size)
    key = {
        "checkpoints": ensemble.name,
        "weights": ensemble.digest(),
        "network": dataclasses.asdict(run.config.model) | {"image_size": batches.config.image_size},
        "calibration": sha256(run.folder / "calibration.json") if config.calibrated else None,
        **images,
        "batch size": size,
    }
    # Whole batches, the same for any number of rows in a shard: then not even the last bit depends on it.
    shards = Shards(out, ids, -(-config.shard_rows // size) * size, key)
    ours, missing = part.shards(len(shards)), shards.missing(part)
    if len(missing) < len(ours):
        say(f"{len(ours) - len(missing)} of {len(ours)} shards are in {shards.folder} already")
    if config.cache:
        decode_ahead(batches, [row for shard in missing for row in shards.rows(shard)], again=True)
    with Meter(ensemble.title, sum(len(shards.rows(shard)) for shard in missing)) as meter:
        for shard in missing:
            rows = shards.rows(shard)
            table = ensemble.predict(lesions.iloc[rows], rows, lambda n: meter.tick(steps=n))
            shards.write(shard, table)
    rate = f"{meter.rate:,.0f}"
    if not shards.merge():
        left = f"{len(shards.missing())} of {len(shards)} shards are missing"
        say(f"part {part.index}/{part.count} is done; {left}, and the last part to finish writes {out}")
        return
    say(f"{len(ids):,} predictions in {out}, by the {ensemble.name}" + (f" ({rate} img/s)" if meter.rate else ""))
    if config.submission is not None:
        write_submission(config.submission, predictions_as_text(out))
        say(f"submission in {config.submission}")
    shards.remove()


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m jaxlesion.predict`."""
    prepare_process()
    run_program(lambda: predict(parse(PredictConfig, arguments(argv), "predict")))


if __name__ == "__main__":
    main()
