"""One mistake, and the good files that it is made in."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.fields import replace
from jaxlesion.data.dataset import fingerprint
from jaxlesion.data.folds import assign
from jaxlesion.data.open import open_dataset
from jaxlesion.runs.store import Run
from jaxlesion.ui.options import parse_train

ROWS = [(f"ISIC_{i:04d}", int(i % 5 == 0), f"IP_{i % 10}") for i in range(1, 41)]  # of 40 lesions, 8 are malignant
DATA = ("--data-dir", "data", "--run-dir", "run")
SMALL = ("--model.variant", "tiny", "--weights", "none", "--data.image-size", "16", "--data.batch-size", "20")
ALL = ("--sampling.negatives-kept", "1", "--epochs", "1", "--folds.n", "2")
TRAIN = (*DATA, *SMALL, *ALL)
OF_RUN = ("--run", "run")
CSV = "FOLDER/data/train-metadata.csv"
IMAGE = Path("data/train-image/image/ISIC_0007.jpg")
SOUND = "replace it by a sound image or remove its row"
RUN_STAYS = " The run has been begun by then: delete its folder, or give another `--run-dir`."


def nothing() -> None:
    """Change nothing: the files are good, and the command is not."""


def write_table(rows: list[tuple], header: str = "isic_id,target,patient_id") -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    Path("data/train-metadata.csv").write_text("\n".join(lines) + "\n")


def good_files() -> None:
    """Write 40 plain crops of 10 patients, one file each, and their table."""
    folder = Path("data/train-image/image")
    folder.mkdir(parents=True)
    for i, (isic_id, _, _) in enumerate(ROWS):
        (folder / f"{isic_id}.jpg").write_bytes(
            cv2.imencode(".jpg", np.full((20, 20, 3), 4 * i, np.uint8))[1].tobytes()
        )
    write_table(ROWS)


def change_row(column: int, value: object) -> Callable[[], None]:
    """Write another value into one column of the 7th row."""

    def change() -> None:
        rows = [list(row) for row in ROWS]
        rows[6][column] = value
        write_table(rows)

    return change


def changed_image(change: Callable[[bytes], bytes]) -> Callable[[], None]:
    return lambda: IMAGE.write_bytes(change(IMAGE.read_bytes()))


def column(name: str, cell: Callable[[int], object]) -> Callable[[], None]:
    return lambda: write_table([(*row, cell(i)) for i, row in enumerate(ROWS)], f"isic_id,target,patient_id,{name}")


def a_run() -> Run:
    """Make a run as training leaves it before its first step."""
    config = replace(parse_train(TRAIN), {"data_dir": Path("data").resolve()})
    dataset = open_dataset(Path("data"))
    manifest = {"data": fingerprint(dataset), "weights": {"name": "none", "sha256": None}}
    return Run.create(Path("run"), config, assign(dataset.lesions, config.folds), manifest)


def a_finished_fold() -> None:
    fold = a_run().fold(0)
    fold.checkpoints.mkdir(parents=True)
    fold.oof.write_text("isic_id,prediction\n")


def a_model_of_all_rows() -> None:
    model = a_run().fold(ALL_ROWS).model
    model.parent.mkdir()
    model.touch()


def a_started_fold() -> None:
    a_run().fold(0).checkpoints.mkdir(parents=True)


@dataclass(frozen=True)
class Case:
    """Holds one mistake: its name, the change to the good files, the command, the message, and the remedy.

    `leaves` is whether a run remains, because the mistake shows only in training.
    """

    what: str
    make: Callable[[], object]
    program: Callable[[list[str]], None]
    argv: tuple[str, ...]
    message: str
    remedy: str
    leaves: bool = False


@contextlib.contextmanager
def workplace(make: Callable[[], object], folder: Path) -> Iterator[None]:
    """Work in `folder`, among good files that `make` has changed."""
    with contextlib.chdir(folder):
        good_files()
        make()
        yield


def contents() -> dict[str, bytes | None]:
    """Read every file, and list folders, but ckpt: the cache of decoded images may have been opened there."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in Path().rglob("*") if p.parts[0] != "ckpt"}
