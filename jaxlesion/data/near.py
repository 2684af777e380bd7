"""Images that look alike though their pixels differ: saved again, resized, brightened, or cropped by a pixel or two.

Measured on the 7,399 crops of the challenge's permissive subset: of their 27 million pairs none is within 60 bits. Of
296 of them, copies saved again at JPEG quality 30, halved, enlarged by half, 20 % brighter or 30 % more contrasted are
all within 40 bits, and 90 % of those that lost two pixels on each side are within 36.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from jaxlesion.core.files import write_atomic
from jaxlesion.core.hooks import ignore
from jaxlesion.data.duplicates import grouped, of_each, pixel_digest
from jaxlesion.data.sources import ImageSource

SIDE = 16  # of the square of bits
NEAR = 40  # of 256 bits: at most so many differ between near-duplicates
ALL_PAIRS = 30_000  # lesions up to which every pair is compared at the start of a training
BLOCK = 256  # hashes that are compared with all others at a time


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Compute the perceptual hash of an image, uint64 [4], by `imagehash.phash`: the low frequencies of its grey."""
    import imagehash
    from PIL import Image

    bits = imagehash.phash(Image.fromarray(image), SIDE).hash
    return np.packbits(bits).view(np.uint64)


def perceptual_hashes(
    images: ImageSource, isic_ids: Iterable[str], workers: int = 2, after: Callable[[int], None] = ignore
) -> np.ndarray:
    """Compute the perceptual hash of every image, uint64 [n, 4].

    Args:
        images: where the bytes are.
        isic_ids: of the wanted images.
        workers: threads that read, decode and hash.
        after: called with the number of images of each chunk.

    Raises:
        InputError: an image that is missing or cannot be decoded.
    """
    hashes = of_each(perceptual_hash, images, isic_ids, workers, after)
    return np.array(hashes, np.uint64).reshape(-1, 4)


def both_hashes(image: np.ndarray) -> np.ndarray:
    """Compute the perceptual hash and the pixel digest of an image, uint64 [6]: 4 and 2."""
    return np.concatenate([perceptual_hash(image), np.frombuffer(pixel_digest(image), np.uint64)])


def kept_hashes(
    images: ImageSource,
    isic_ids: Sequence[str],
    path: Path | None,
    workers: int = 2,
    after: Callable[[int], None] = ignore,
) -> np.ndarray:
    """Compute `both_hashes` of images, uint64 [n, 6], and keep them in a file for the next call.

    Args:
        images: where the bytes are.
        isic_ids: [n] of the wanted images.
        path: of the file, which belongs to these very images; one that cannot be read or written is done without. None
            to keep nothing.
        workers: threads.
        after: called with the number of images of each chunk.
    """
    known = pd.Series([], dtype=object)
    if path is not None:
        with suppress(OSError, ValueError, KeyError), np.load(path, allow_pickle=False) as kept:
            known = pd.Series(list(kept["hashes"]), kept["ids"].tolist())
    missing = [isic_id for isic_id in isic_ids if isic_id not in known.index]
    if missing:
        found = of_each(both_hashes, images, missing, workers, after)
        known = pd.concat([known, pd.Series(found, missing)])
        if path is not None:
            _keep(path, known)
    return np.stack(known.loc[list(isic_ids)].to_list()) if len(isic_ids) else np.empty((0, 6), np.uint64)


def _keep(path: Path, known: pd.Series) -> None:
    content = io.BytesIO()
    np.savez(content, ids=np.array(known.index, str), hashes=np.stack(known.to_list()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.getvalue())
    except OSError:
        pass


def near_pairs(
    hashes: np.ndarray, some: np.ndarray | None = None, most: int = NEAR, after: Callable[[int], None] = ignore
) -> np.ndarray:
    """Find the pairs of hashes that differ in at most `most` bits, by comparing every pair.

    Args:
        hashes: uint64 [n, 4].
        some: positions that are compared with all [default: all].
        most: bits.
        after: called with the number of hashes that have been compared with all others.

    Returns:
        int64 [pairs, 2] positions, the lower one first, in rising order.
    """
    some = np.arange(len(hashes)) if some is None else np.asarray(some)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(some), BLOCK):
        block = some[start : start + BLOCK]
        distance = np.zeros((len(block), len(hashes)), np.int16)
        for word in range(hashes.shape[1]):
            distance += np.bitwise_count(hashes[block, None, word] ^ hashes[None, :, word])
        one, other = np.nonzero(distance <= most)
        found = np.column_stack([block[one], other])
        pairs.append(np.sort(found[found[:, 0] != found[:, 1]]))
        after(len(block))
    return np.unique(np.concatenate(pairs), axis=0)


def groups_of(pairs: np.ndarray, n: int) -> np.ndarray:
    """Return a group [n] for each of n images, such that two of a pair are in one group; -1 for images in no pair."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(n, n))
    component = connected_components(edges, directed=False)[1]
    paired = np.isin(np.arange(n), pairs)
    group = np.full(n, -1)
    group[paired] = pd.factorize(component[paired])[0]
    return group


def across_folds(lesions: pd.DataFrame, hashes: np.ndarray) -> pd.DataFrame:
    """Return the near-duplicates of which some are in another fold, as `data.duplicates.duplicates` does.

    Of more than 30,000 lesions only the malignant ones are compared with all: every pair would take minutes.

    Args:
        lesions: [n] rows with targets and folds.
        hashes: uint64 [n, 4] of their images.
    """
    some = np.flatnonzero(lesions["target"] == 1) if len(lesions) > ALL_PAIRS else None
    table = grouped(lesions, groups_of(near_pairs(hashes, some), len(lesions)))
    return table[table.groupby("group")["fold"].transform("nunique") > 1]
