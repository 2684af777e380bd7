"""Lesions to compare a new one with: held-out scores, and the training crops nearest to it."""

import base64
import dataclasses
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.errors import InputError
from jaxlesion.core.hooks import ignore
from jaxlesion.data.batch import Batch
from jaxlesion.data.batches import Batches
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.decode import decode
from jaxlesion.data.open import open_dataset
from jaxlesion.data.predictions import CALIBRATED, read_predictions
from jaxlesion.data.schema import KEYS
from jaxlesion.inference.neighbours import nearest
from jaxlesion.inference.predictor import restore_variables
from jaxlesion.learning.loop import predict_batches
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.registry import build_model
from jaxlesion.runs.store import Run
from jaxlesion.serving.likeness import UNLIKE, Likeness, make_summary_step

NEAREST = 6  # neighbours that are shown
ROWS = 2_000  # training crops that are compared with, drawn at random beyond the malignant ones
BATCH = 8
THUMBNAIL = 72  # pixels a side


class Place(NamedTuple):
    """Share of the run's held-out lesions of each class whose score is below."""

    benign: float
    malignant: float
    lesions: int


class HeldOut:
    """Ranks a score among the out-of-fold scores of a run, each network's among those of the rows it held out.

    The model of all rows held none out: its calibrated probability is ranked among the folds' calibrated ones.

    Args:
        run: of a network.
        folds: that predict, or [ALL_ROWS].
    """

    def __init__(self, run: Run, folds: list[int]):
        self.missing: str | None = None
        self._parts: list[pd.DataFrame] = []
        path = run.folder / "oof.csv"
        if run.released:
            self.missing = "A released model comes without the scores of held-out lesions to rank this one among."
        elif not path.is_file():
            self.missing = "The run has no out-of-fold scores to rank this one among."
        else:
            table = read_predictions(path)
            self._alone = folds == [ALL_ROWS]
            if self._alone and (CALIBRATED not in table or table[CALIBRATED].isna().any()):
                self.missing = "The run has no calibrated out-of-fold scores to rank this one among."
            elif self._alone:
                self._parts = [table[["target"]].assign(score=table[CALIBRATED])]
            else:
                scores = table[["target", "fold"]].assign(score=table["prediction"])
                self._parts = [scores[scores["fold"] == fold] for fold in folds]

    def place(self, each: np.ndarray, calibrated: float | None) -> Place | None:
        """Return the place of an image, or None where it cannot be known.

        Args:
            each: uncorrected probability of each network, [networks].
            calibrated: the mean of the calibrated ones.
        """
        own = [calibrated] if self._parts and self._alone else each.tolist()
        if not self._parts or own[0] is None:
            return None
        below = [
            [float((part["score"][part["target"] == label] < score).mean()) for label in (0, 1)]
            for part, score in zip(self._parts, own, strict=True)
        ]
        if np.isnan(below).any():  # a fold without malignant lesions
            return None
        return Place(*np.mean(below, 0).tolist(), sum(map(len, self._parts)))


@dataclass(frozen=True)
class Neighbour:
    """A labelled training lesion."""

    isic_id: str
    target: int
    picture: str
    """Data URI of a small JPEG."""


@dataclass(frozen=True)
class Surroundings:
    """Training lesions around an image.

    Args:
        neighbours: nearest first.
        farther: see `Likeness.farther`.
        compared: number of training lesions that it was compared with.
    """

    neighbours: tuple[Neighbour, ...]
    farther: float
    compared: int

    @property
    def unlike(self) -> bool:
        """Return whether the image is unlike the training crops."""
        return self.farther < UNLIKE


class Neighbourhood:
    """Embeds training lesions, to find those nearest to an image and to recognise images unlike them.

    The embedding is the pooled features of one network, scaled to length 1: of the first fold that has one, and the
    rows it held out say how far new crops are as a rule; else of the model of all rows, and its own rows say so.

    Args:
        run: of a network.
        data_dir: with the run's training data; None for where it lay in training.

    Raises:
        InputError: whatever is wrong with the data, or it is not the run's.
    """

    def __init__(self, run: Run, data_dir: Path | None):
        self.run, self.done, self.failed = run, 0, None
        folds = [] if run.released else run.finished_folds()
        usable = [fold for fold in folds if run.fold(fold).has_checkpoint or run.fold(fold).model.is_file()]
        self.fold = usable[0] if usable else ALL_ROWS
        self.dataset, lesions = _training_data(run, data_dir)
        self.lesions = _some(lesions)
        self._step = make_summary_step(build_model(run.config.model))
        self._variables, _ = restore_variables(run, self.fold)
        self._ready = threading.Event()
        self._width = self._variables["params"][HEAD]["kernel"].shape[0]
        self._index = np.empty(0)
        self._rows = np.empty(0, np.int64)

    def build(self, say: Callable[[str], None] = ignore) -> None:
        """Embed the lesions, and measure how far held-out ones are from the others."""
        config = dataclasses.replace(self.run.config.data, batch_size=BATCH, workers=1, cache=False)
        batches = Batches(self.dataset.images, self.lesions["isic_id"], None, config)
        rows = np.arange(len(self.lesions))
        values = predict_batches(self._step, self._variables, batches.plain(rows), _same, self._count)
        held_out = self.lesions["fold"].to_numpy() == self.fold if self.fold != ALL_ROWS else np.zeros(len(rows), bool)
        means, features = self._parts(values)
        self.likeness = Likeness(means[~held_out], means[held_out] if held_out.any() else means)
        self._rows, self._index = rows[~held_out], _unit(features[~held_out])
        self._ready.set()
        say(f"{len(self._rows):,} training lesions are ready to compare with")

    def start(self, say: Callable[[str], None] = ignore) -> threading.Thread:
        """Call `build` in a thread; what goes wrong is told by `state`."""

        def work() -> None:
            try:
                self.build(say)
            except Exception as e:  # the page goes on without neighbours, and says so
                self.failed = str(e)
                say(f"no training lesions to compare with: {e}")

        thread = threading.Thread(target=work, name="neighbours", daemon=True)
        thread.start()
        return thread

    @property
    def state(self) -> str | None:
        """Say why there are no neighbours yet; None when there are."""
        if self._ready.is_set():
            return None
        if self.failed is not None:
            return f"Not compared with training crops: {self.failed}."
        return f"Not compared with training crops yet: {self.done:,} of {len(self.lesions):,} are read."

    def search(self, pixels: np.ndarray) -> Surroundings | None:
        """Return what is around an image, uint8 [size, size, 3]; None while the index is not ready."""
        if not self._ready.is_set():
            return None
        batch = batch_of(np.repeat(pixels[None], BATCH, 0))  # of the size that is compiled already
        means, features = self._parts(np.asarray(self._step(self._variables, batch))[:1])
        _, at = nearest(self._index, _unit(features), min(NEAREST, len(self._index)))
        found = self.lesions.iloc[self._rows[at[0]]]
        neighbours = [Neighbour(i, int(t), self._picture(i)) for i, t in zip(found.isic_id, found.target, strict=True)]
        return Surroundings(tuple(neighbours), self.likeness.farther(means[0]), len(self._rows))

    def _parts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means of the early map, and pooled features."""
        channels = values.shape[1] - self._width
        return values[:, :channels], values[:, channels:]

    def _picture(self, isic_id: str) -> str:
        return data_uri(decode(self.dataset.images.read(isic_id), isic_id), THUMBNAIL)

    def _count(self, images: int) -> None:
        self.done += images


def neighbourhood(run: Run, data_dir: Path | None, say: Callable[[str], None] = ignore) -> Neighbourhood | None:
    """Return the training lesions that are at hand, not yet embedded; None without them.

    Args:
        run: of a network.
        data_dir: where they lie; None for where they lay in training, and then nothing about them is an error.
        say: called with what is wrong with them.

    Raises:
        InputError: `data_dir` is given, and something is wrong with it.
    """
    own = None if run.released else run.config.data_dir
    if data_dir is None and (own is None or not own.is_dir()):
        return None
    try:
        return Neighbourhood(run, data_dir)
    except InputError as e:
        if data_dir is not None:
            raise
        say(f"no training lesions to compare with: {e}")
        return None


def batch_of(images: np.ndarray) -> Batch:
    """Return images, uint8 [b, h, w, 3], as a batch without labels."""
    n = len(images)
    ones, row = np.ones(n, np.float32), np.arange(n, dtype=np.int32)
    return Batch(image=images, label=np.zeros(n, np.float32), mask=ones, row=row)


def data_uri(image: np.ndarray, size: int | None = None) -> str:
    """Return uint8 [h, w, 3] as the data URI of a JPEG, which needs no network.

    Args:
        image: the pixels.
        size: the longest side, which a larger image is shrunk to.
    """
    from PIL import Image

    picture = Image.fromarray(image)
    if size is not None:
        picture.thumbnail((size, size))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _training_data(run: Run, data_dir: Path | None) -> tuple[Dataset, pd.DataFrame]:
    """Open the lesions that a run was trained on, with their folds; of a released model those that it names."""
    if not run.released:
        return run.open_data(data_dir, columns=KEYS)
    if data_dir is None:
        raise InputError(f"{run.folder} is a released model, without its training data: give --neighbours their folder")
    dataset = open_dataset(data_dir, layout=run.layout(), columns=KEYS)
    trained = dataset.lesions["isic_id"].isin(run.trained_rows([ALL_ROWS])["isic_id"])
    lesions = dataset.lesions[trained].reset_index(drop=True)
    if len(lesions) < 2 * NEAREST:
        raise InputError(f"--neighbours {data_dir}: holds none of the lesions that {run.folder} was trained on")
    return dataset, lesions


def _some(lesions: pd.DataFrame) -> pd.DataFrame:
    """Return at most `ROWS` lesions: of the malignant ones at most half of that, benign ones for the rest."""
    if len(lesions) <= ROWS:
        return lesions.reset_index(drop=True)
    malignant = lesions["target"] == 1
    few = lesions[malignant].sample(min(ROWS // 2, int(malignant.sum())), random_state=0)
    return pd.concat([few, lesions[~malignant].sample(ROWS - len(few), random_state=0)]).reset_index(drop=True)


def _unit(values: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def _same(batch: Batch) -> Batch:
    return batch
