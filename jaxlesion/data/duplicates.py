"""Images that are there more than once, pixel for pixel: in two folds, one of them is trained on and scored on."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pandas as pd

from jaxlesion.data.decode import decode
from jaxlesion.data.sources import ImageSource

T = TypeVar("T")
CHUNK = 256  # images in flight; 16 bytes are kept of each
SHOWN = ("isic_id", "patient_id", "target", "fold")


def pixel_digest(image: np.ndarray) -> bytes:
    """Compute the BLAKE2b (16 bytes) of an image's shape and pixels; by the shape, 2 x 8 is not 4 x 4."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    return digest.digest()


def pixel_digests(
    images: ImageSource, isic_ids: Iterable[str], workers: int = 2, after: Callable[[int], None] = lambda images: None
) -> list[bytes]:
    """Compute the digest of every image as decoded, at its own size: the file around the pixels has no part in it.

    Args:
        images: where the bytes are.
        isic_ids: of the wanted images.
        workers: threads that read, decode and hash.
        after: called with the number of images of each chunk.

    Raises:
        InputError: an image that is missing or cannot be decoded.
    """
    return of_each(pixel_digest, images, isic_ids, workers, after)


def of_each(
    describe: Callable[[np.ndarray], T],
    images: ImageSource,
    isic_ids: Iterable[str],
    workers: int,
    after: Callable[[int], None],
) -> list[T]:
    """Describe each decoded image, in the order of the ids; other arguments are those of `pixel_digests`."""
    ids, found = list(isic_ids), []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            found += pool.map(lambda isic_id: describe(decode(images.read(isic_id), isic_id)), part)
            after(len(part))
    return found


def duplicates(lesions: pd.DataFrame, digests: list[bytes]) -> pd.DataFrame:
    """Find the lesions whose pixels another lesion has too.

    Args:
        lesions: [n] rows with isic_id, and, where known, patient_id, target and fold.
        digests: [n] of their pixels.

    Returns:
        A table with `group`, from 0 in the order of the lesions, then isic_id, and patient_id, target and fold
        where the lesions have them; rows by group. Empty where every image is there once.
    """
    group = pd.factorize(np.array([digest.hex() for digest in digests], dtype=object))[0]
    return grouped(lesions, np.where(pd.Series(group).duplicated(keep=False), group, -1))


def grouped(lesions: pd.DataFrame, group: np.ndarray) -> pd.DataFrame:
    """Return the table of `duplicates` from the group [n] of each lesion, -1 for lesions in none."""
    table = lesions[[c for c in SHOWN if c in lesions]].reset_index(drop=True)
    table = table[group >= 0]
    table.insert(0, "group", pd.factorize(group[table.index])[0])
    return table.sort_values("group", kind="stable", ignore_index=True)


def count(table: pd.DataFrame) -> dict[str, int]:
    """Count the lesions and groups of duplicates, and the groups with several folds, patients or targets.

    Args:
        table: from `duplicates`.

    Returns:
        `lesions`, `groups`, and, where the table has the column, `across_folds`, `across_patients` and
        `across_targets`: groups with more than one of them.
    """
    counts = {"lesions": len(table), "groups": table["group"].nunique()}
    for name, column in (("across_folds", "fold"), ("across_patients", "patient_id"), ("across_targets", "target")):
        if column in table:
            counts[name] = int((table.groupby("group")[column].nunique() > 1).sum())
    return counts
