"""Rows to predict that a run was trained on: by their ids, and by their pixels."""

from collections.abc import Sequence

import numpy as np

from jaxlesion.data.duplicates import pixel_digest
from jaxlesion.data.identity import alike
from jaxlesion.runs.store import Run


class Overlap:
    """Finds the images, among those predicted, that a predicting fold of a run was trained on.

    Args:
        run: that predicts.
        folds: of it that predict, or [ALL_ROWS].
        ids: of the rows to predict.
    """

    def __init__(self, run: Run, folds: Sequence[int], ids: Sequence[str]):
        trained = run.trained_rows(folds)
        self.folder = run.folder
        self.by_id = sorted(set(ids) & set(trained["isic_id"]))
        self.read_alike = alike(ids, sorted(set(trained["isic_id"]) - set(ids)))
        self._digests = run.trained_pixels(folds)
        self._by_pixels: set[str] = set()

    def watch(self, isic_id: str, pixels: np.ndarray) -> None:
        """Look at a decoded image, uint8 [h, w, 3]; from any thread."""
        if self._digests and pixel_digest(pixels) in self._digests:
            self._by_pixels.add(isic_id)

    def ids_note(self) -> list[str]:
        """Return a sentence on rows whose ids were trained on, if there are any."""
        if self.by_id:
            return [
                f"{len(self.by_id):,} of these rows were trained on, by their ids ({self.by_id[0]}, ...): their "
                "predictions are too good"
            ]
        if self.read_alike is not None:
            return [
                f"{self.read_alike[1]} reads like {self.read_alike[0]}, which was trained on: is it the same lesion?"
            ]
        return []

    def pixels_note(self) -> list[str]:
        """Return a sentence on images seen so far whose pixels were trained on under another id, if there are any."""
        others = sorted(self._by_pixels - set(self.by_id))
        if not others:
            return []
        return [
            f"{len(others):,} of these images have exactly the pixels of one that was trained on under another id "
            f"({others[0]}, ...): their predictions are too good"
        ]
