"""Images decoded once: uint8 at one size, in a memory-mapped file that every epoch and every run reads."""

import errno
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxlesion.errors import InputError

CACHE = Path("ckpt") / "cache"
CHUNK = 512  # rows decoded between two flushes: bounds memory, and what a kill loses


class ImageCache:
    """The decoded images of one dataset at one size.

    `<digest>-<size>.u8` holds [n, size, size, 3] uint8, rows in the order of sorted ids; it is sparse
    until filled. `<digest>-<size>.crc` holds a checksum per row, 0 while the row is not there; it is
    written after the pixels, so a row that is there is whole, and it is compared at every reading.

    Args:
        folder: where the files lie; made if need be.
        digest: SHA-256 of the dataset's images, so that other images have another file.
        ids: isic_id of every image of that dataset, in any order.
        size: side in pixels.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, digest: str, ids: Sequence[str], size: int):
        self.slot = {isic_id: slot for slot, isic_id in enumerate(sorted(ids))}
        self.bytes = len(ids) * size * size * 3
        name = f"{digest[:24]}-{size}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.pixels = _mapped(folder / f"{name}.u8", np.uint8, (len(ids), size, size, 3))
            self.sums = _mapped(folder / f"{name}.crc", np.uint32, (len(ids),), whole=True)
        except OSError as e:
            reason = e.strerror or e
            raise InputError(f"{folder}: cannot hold decoded images ({reason}); --data.no-cache does without") from None

    def __contains__(self, isic_id: str) -> bool:
        return self.sums[self.slot[isic_id]] != 0

    def fill(
        self,
        ids: Sequence[str],
        image: Callable[[str], np.ndarray],
        workers: int,
        after: Callable[[int], None] = lambda images: None,
    ) -> None:
        """Decode the images that are missing.

        Args:
            ids: which are wanted.
            image: gives the uint8 [size, size, 3] of an id; called from `workers` threads.
            workers: threads.
            after: called with the number of images of each chunk.

        Raises:
            InputError: the disk is full; what was decoded before stays.
        """
        missing = [isic_id for isic_id in ids if isic_id not in self]
        # Written, not mapped: on a full disk a write fails, but touching a mapped page kills the process.
        with open(self.pixels.filename, "r+b", buffering=0) as file, ThreadPoolExecutor(workers) as pool:

            def put(isic_id: str) -> int:
                pixels = np.ascontiguousarray(image(isic_id), np.uint8)
                _write_at(file.fileno(), self.slot[isic_id] * pixels.nbytes, pixels)
                return _checksum(pixels)

            for start in range(0, len(missing), CHUNK):
                part = missing[start : start + CHUNK]
                try:
                    sums = list(pool.map(put, part))
                    os.fsync(file.fileno())
                except OSError as e:
                    if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                        raise
                    raise InputError(
                        f"{self.pixels.filename}: cannot hold decoded images ({e.strerror}); make room, "
                        "or --data.no-cache does without"
                    ) from None
                self.sums[[self.slot[isic_id] for isic_id in part]] = sums
                after(len(part))
        self.sums.flush()

    def read(self, isic_id: str) -> np.ndarray:
        """One image's pixels, uint8 [size, size, 3].

        Raises:
            InputError: they are not what was written.
        """
        slot = self.slot[isic_id]
        pixels = np.array(self.pixels[slot])
        if _checksum(pixels) != self.sums[slot]:
            raise InputError(
                f"{self.pixels.filename}: {isic_id} is damaged in it; delete the file, and it is made anew"
            )
        return pixels


def _checksum(image: np.ndarray) -> int:
    """CRC-32, with 1 in place of 0, which stands for a row that is not there."""
    return zlib.crc32(np.ascontiguousarray(image)) or 1


def _write_at(file: int, start: int, pixels: np.ndarray) -> None:
    """All of the array; a write that meets the end of the disk may first be a short one."""
    rest = memoryview(pixels).cast("B")
    while rest:
        done = os.pwrite(file, rest, start)
        start, rest = start + done, rest[done:]


def _mapped(path: Path, dtype: type, shape: tuple[int, ...], *, whole: bool = False) -> np.memmap:
    """A file of zeros of that shape, or the one that is there; sparse, or with room for the `whole` of it."""
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:
        if file.tell() != wanted:
            file.truncate(0)
            file.truncate(wanted)
        if whole and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, wanted)
    return np.memmap(path, dtype, "r+", shape=shape)
