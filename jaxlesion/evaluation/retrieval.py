"""Top-k retrieval: how many of a patient's malignant lesions are among the k that a model ranks highest.

The secondary prize of the ISIC 2024 challenge took k = 15 (Kurtansky et al. 2024, "The SLICE-3D dataset", Scientific
Data 11; Kaggle, isic-2024-challenge). Ties at the cut are counted by expectation over all orders of the tied rows, so
that no order of the table matters. A patient with at most k lesions is found by chance: read it beside `chance`.
"""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """Retrieval of the patients with a malignant lesion, each [patients]."""

    rows: np.ndarray
    """Lesions."""
    malignant: np.ndarray
    """Malignant ones among them."""
    hits: np.ndarray
    """Malignant lesions expected among the k highest."""
    any_hit: np.ndarray
    """Chance that at least one malignant lesion is among them."""
    chance_hits: np.ndarray
    """`hits` of a random order: malignant min(1, k / rows)."""
    chance_any_hit: np.ndarray
    """`any_hit` of a random order."""


def top_k(target: np.ndarray, prediction: np.ndarray, patient: np.ndarray, k: int) -> Found:
    """Return the retrieval of each patient with a malignant lesion, in the order of the patients' numbers.

    Of g rows tied at the cut, c of them malignant, s have a place among the k: c s / g malignant ones are expected,
    and none comes with the chance C(g - c, s) / C(g, s).

    Args:
        target: [n] 0 or 1.
        prediction: [n].
        patient: [n] whole numbers.
        k: lesions that are looked at, at least 1.
    """
    found = []
    for rows in rows_of_patients(patient, np.unique(patient[target == 1])):
        y, p = target[rows], prediction[rows]
        n, m, places = len(rows), int(y.sum()), min(k, len(rows))
        cut = np.partition(p, n - places)[n - places]
        tied, above = p == cut, int(y[p > cut].sum())
        g, c, s = int(tied.sum()), int(y[tied].sum()), places - int((p > cut).sum())
        any_hit = 1.0 if above else 1 - _none(g, c, s)
        found.append((n, m, above + c * s / g, any_hit, m * min(1.0, k / n), 1 - _none(n, m, places)))
    return Found(*np.array(found, np.float64).reshape(-1, 6).T)


def rows_of_patients(patient: np.ndarray, wanted: np.ndarray) -> Sequence[np.ndarray]:
    """Return the positions of the rows of each wanted patient."""
    order = np.argsort(patient, kind="stable")
    ranked = patient[order]
    starts, ends = (np.searchsorted(ranked, wanted, side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def _none(rows: int, malignant: int, places: int) -> float:
    """Return the chance that none of the malignant rows is among `places` rows drawn at random."""
    return comb(rows - malignant, places) / comb(rows, places)
