"""python -m jaxlesion.duplicates: images that are there more than once, pixel for pixel or nearly."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.config import Layout
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.duplicates import count, duplicates, grouped, pixel_digests
from jaxlesion.data.near import groups_of, near_pairs, perceptual_hashes
from jaxlesion.data.open import open_dataset
from jaxlesion.data.schema import KEYS
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.outputs import check_outputs
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.terminal import results_to_stderr, say, show

LISTED = 10  # groups that are printed


@dataclass(frozen=True)
class DuplicatesConfig:
    """List the images that are there more than once, pixel for pixel, or with --near those that look alike."""

    data_dir: Path | None = None
    """Folder with train-metadata.csv and the images [default: that of the run]."""
    data: Layout = field(default_factory=Layout)
    run: Path | None = None
    """Folder of a run: its rows and folds."""
    near: bool = False
    """Find near-duplicates by a perceptual hash: images saved again, resized, brightened or slightly cropped. Those
    of the test set, where there is one, are included, as fold `test`."""
    out: Path | None = None
    """Write all of them there, as CSV: group, isic_id, patient_id, target, and fold with --run; - is stdout."""
    workers: int = 2
    """Threads that decode."""


def find_duplicates(config: DuplicatesConfig) -> pd.DataFrame:
    """Count and print duplicates, write them to `out` if given, and return them as `data.duplicates.duplicates` does.

    Raises:
        InputError: neither data nor a run is given, or one of them cannot be used.
    """
    if (run := None if config.run is None else Run.open(config.run)) is not None:
        run.check_unreleased()
    if (folder := config.data_dir or (run and run.config.data_dir)) is None:
        raise InputError("give --data-dir, a folder with train-metadata.csv, or --run, a run's folder")
    if config.workers < 1:
        raise InputError(f"--workers must be at least 1, not {config.workers}")
    in_stdout = check_outputs({"--out": config.out}, config)
    layout = config.data if config.data_dir or run is None else run.layout(config.data.table)
    dataset = open_dataset(folder, layout=layout, columns=KEYS, say=say)
    lesions = dataset.lesions if run is None else run.lesions(dataset)
    table = _near(lesions, dataset, folder, config.workers) if config.near else _equal(lesions, dataset, config.workers)
    counts, what = count(table), "look alike" if config.near else "share their pixels"
    with results_to_stderr(in_stdout):
        show(f"{len(lesions):,} lesions: {counts.pop('lesions'):,} {what}, in {counts.pop('groups'):,} groups")
        for name, groups in counts.items():
            show(f"groups {name.replace('_', ' ')}: {groups:,}")
        for number, rows in table[table["group"] < LISTED].groupby("group"):
            show(f"group {number}: {' '.join(rows['isic_id'])}")
    if config.out is not None:
        write_atomic(config.out, table.to_csv(index=False, lineterminator="\n"))
        say(f"all of them in {config.out}")
    return table


def _equal(lesions: pd.DataFrame, dataset: Dataset, workers: int) -> pd.DataFrame:
    with ProgressBar("hashing pixels", len(lesions)) as meter:
        return duplicates(lesions, pixel_digests(dataset.images, lesions["isic_id"], workers, meter.advance))


def _near(lesions: pd.DataFrame, dataset: Dataset, folder: Path, workers: int) -> pd.DataFrame:
    splits = [(lesions, dataset.images)]
    if (folder / "test-metadata.csv").is_file():
        test = open_dataset(folder, "test", columns=KEYS)
        splits.append((test.lesions.assign(fold="test"), test.images))
    together = pd.concat([rows for rows, _ in splits], ignore_index=True)
    with ProgressBar("hashing images", len(together)) as meter:
        each = [perceptual_hashes(images, rows["isic_id"], workers, meter.advance) for rows, images in splits]
    with ProgressBar("comparing hashes", len(together)) as meter:
        pairs = near_pairs(np.concatenate(each), after=meter.advance)
    return grouped(together, groups_of(pairs, len(together)))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.duplicates`."""
    prepare_process()
    run_program(lambda: find_duplicates(parse(DuplicatesConfig, arguments(argv), "duplicates")))


if __name__ == "__main__":
    main()
