"""Examine one crop: its probability, how its eight views spread, and where the evidence is."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.errors import InputError, Refused
from jaxlesion.core.hooks import ignore
from jaxlesion.data.decode import decode, resize
from jaxlesion.data.duplicates import pixel_digest
from jaxlesion.data.hdf5 import MAX_BYTES, size_fault
from jaxlesion.evaluation.calibration import Calibration, logit
from jaxlesion.inference.predictor import Members, Which, members_of, restore_variables
from jaxlesion.learning.step import make_grad_cam_step, make_predict_step, symmetries
from jaxlesion.model.registry import build_model
from jaxlesion.runs.store import Run, model_name
from jaxlesion.runtime.compile_cache import keep_compiled, vouch
from jaxlesion.serving.reference import HeldOut, Neighbourhood, Place, Surroundings, batch_of

VIEWS = 8
TRAINED_ON = "The model was trained on exactly these pixels: the probability is too sure."


@dataclass(frozen=True)
class Result:
    """Holds what is found about one image; with `error`, the image was refused and nothing else is known."""

    name: str
    error: str | None = None
    probability: float = np.nan
    """As `predict --image` gives it, uncorrected."""
    calibrated: float | None = None
    """As `predict --image --calibrated` gives it; None where the run has no calibration of this model."""
    views: tuple[float, ...] = ()
    """Of each of the eight views; calibrated where `calibrated` is known."""
    place: Place | None = None
    surroundings: Surroundings | None = None
    label: int | None = None
    """Known target of a row of a table."""
    notes: tuple[str, ...] = ()
    pixels: np.ndarray | None = field(default=None, repr=False)
    """As the network sees it, uint8 [size, size, 3]."""
    heat: np.ndarray | None = field(default=None, repr=False)
    """Grad-CAM in [0, 1], float32 [size, size]: the mean over the networks."""


class Examiner:
    """Examines images by the finished folds of a run, or by its model of all rows; one at a time, from any thread.

    Args:
        run: of a network.
        which: checkpoint of each fold.
        fold: see `members_of`.
        tta: views whose mean logit is the probability: 1 or 8.

    Raises:
        InputError: there is no such model.
    """

    def __init__(self, run: Run, which: Which = "last", fold: Members | None = None, tta: int = 1):
        run.check_network("the page is for networks")
        keep_compiled()
        self.run, self.tta, self.folds = run, tta, members_of(run, fold)
        restored = [restore_variables(run, each, which) for each in self.folds]
        self.members = [variables for variables, _ in restored]
        self.models = [model_name(each, at) for each, (_, at) in zip(self.folds, restored, strict=True)]
        model = build_model(run.config.model)
        self._predict, self._heat = make_predict_step(model), make_grad_cam_step(model)
        self.calibration, self.without = _calibration(run, self.models)
        self.held_out = HeldOut(run, self.folds)
        self.neighbourhood: Neighbourhood | None = None
        self._trained, self._lock = run.trained_pixels(self.folds), threading.Lock()

    @property
    def title(self) -> str:
        """Say what predicts."""
        alone = self.folds == [ALL_ROWS]
        what = "model of all rows" if alone else f"mean of {len(self.folds)} folds"
        return f"{self.run.config.model.variant}, run {self.run.folder.name}, {what}"

    def warm_up(self, say: Callable[[str], None] = ignore) -> float:
        """Compile everything, on an empty image; return the seconds that an image takes then."""
        size = self.run.config.data.image_size
        image, works = np.zeros((size, size, 3), np.uint8), {"probabilities": self._views, "Grad-CAM": self._evidence}
        for name, work in works.items():
            say(f"compiling: {name}")
            work(image)
        vouch()
        start = time.perf_counter()
        for work in works.values():
            work(image)
        return time.perf_counter() - start

    def examine(self, name: str, data: bytes, label: int | None = None) -> Result:
        """Examine an encoded image; one that is refused gives a result with `error`.

        Args:
            name: of the file, as it is shown.
            data: its bytes.
            label: known target.
        """
        try:
            original = _decoded(name, data)
        except InputError as e:
            return Result(name, error=str(e).partition("; ")[0])
        config = self.run.config.data
        pixels = resize(original, config.image_size, antialias=config.antialias)
        with self._lock:
            each, heat = self._views(pixels), self._evidence(pixels)
            near = self.neighbourhood
            surroundings = None if near is None else near.search(pixels)
        notes = [TRAINED_ON] if pixel_digest(original) in self._trained else []
        by_view = each.mean(1)
        together = each[:1] if self.tta == 1 else special.expit(logit(each).mean(0, keepdims=True))
        calibrated = None
        if self.calibration is not None:
            by_view = self.calibration.new_rows(each, self.models)
            calibrated = float(self.calibration.new_rows(together, self.models)[0])
        place = self.held_out.place(each[0], float(by_view[0]) if self.calibration else None)
        views = tuple(map(float, by_view))
        probability = float(together.mean())
        return Result(
            name, None, probability, calibrated, views, place, surroundings, label, tuple(notes), pixels, heat
        )

    def _views(self, pixels: np.ndarray) -> np.ndarray:
        """Return the uncorrected probability of each view by each network, [8, networks]; the first is the image's."""
        batch = batch_of(np.asarray(symmetries(jnp.asarray(pixels[None])))[:, 0])
        return np.stack([np.asarray(self._predict(variables, batch)) for variables in self.members], 1)

    def _evidence(self, pixels: np.ndarray) -> np.ndarray:
        batch = batch_of(pixels[None])
        return np.mean([np.asarray(self._heat(variables, batch))[0] for variables in self.members], 0)


def _decoded(name: str, data: bytes) -> np.ndarray:
    """Decode an image as `predict --image` does: with a limit on its bytes, and its header checked first."""
    if not 0 < len(data) <= MAX_BYTES:
        raise InputError(f"image {name} {Refused(size_fault(len(data)))}")
    return decode(data, name)


def _calibration(run: Run, models: list[str]) -> tuple[Calibration | None, str | None]:
    """Return the run's calibration, or why there is none of these checkpoints."""
    try:
        found = run.calibration()
        found.check(models)
    except InputError as e:
        return None, str(e)
    return found, None
