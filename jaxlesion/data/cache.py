"""Images decoded once: uint8 at one size, in a file that every epoch and every run reads."""

import errno
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import RandomAccessFile

CACHE = Path("ckpt") / "cache"
ELSEWHERE = "make room or allow it, or work in another folder"  # not every command does without them
CHUNK = 512  # rows decoded between two flushes: bounds memory and the loss by a kill


class ImageCache:
    """Keeps the decoded images of one dataset at one size.

    `<digest>-<size>.u8` holds [n, size, size, 3] uint8, rows in the order of sorted ids; it is sparse
    until filled. `<digest>-<size>.crc` holds a checksum per row, 0 while the row is not there; it is
    written after the pixels, so a row that is there is whole, and it is compared at every reading.
    Only the checksums are mapped: of a map every page that was used counts as the process's memory.

    Args:
        folder: where the files lie; made if need be.
        digest: SHA-256 of the dataset's images, so that other images have another file.
        ids: isic_id of every image of that dataset, in any order.
        size: side in pixels.
        antialias: whether shrunk images were averaged, which are kept in another file.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, digest: str, ids: Sequence[str], size: int, antialias: bool = False):
        self.slot = {isic_id: slot for slot, isic_id in enumerate(sorted(ids))}
        self.shape = (size, size, 3)
        self.row_bytes = size * size * 3
        self.bytes = len(ids) * self.row_bytes
        self.path = self.file_of(folder, digest, size, antialias)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sized(self.path, self.bytes)
            self.file = RandomAccessFile(self.path, writable=True)
            sums = self.path.with_suffix(".crc")
            _sized(sums, 4 * len(ids), whole=True)
            self.sums = np.memmap(sums, np.uint32, "r+", shape=(len(ids),))
        except OSError as e:
            reason = e.strerror or e
            raise InputError(f"{folder}: cannot hold decoded images ({reason}); {ELSEWHERE}") from None

    @staticmethod
    def file_of(folder: Path, digest: str, size: int, antialias: bool = False) -> Path:
        """Return the file of a dataset's pixels."""
        return folder / f"{digest[:24]}-{size}{'-antialiased' if antialias else ''}.u8"

    def __contains__(self, isic_id: str) -> bool:
        return self.sums[self.slot[isic_id]] != 0

    def fill(
        self,
        ids: Sequence[str],
        image: Callable[[str], np.ndarray],
        workers: int,
        after: Callable[[int], None] = lambda images: None,
        chunk: int = CHUNK,
    ) -> None:
        """Decode the images that are missing.

        Args:
            ids: of the wanted images.
            image: gives the uint8 [size, size, 3] of an id; called from `workers` threads.
            workers: threads.
            after: called with the number of images of each chunk.
            chunk: images decoded between two flushes.

        Raises:
            InputError: the disk is full; images decoded before stay.
        """
        missing = [isic_id for isic_id in ids if isic_id not in self]
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(missing), chunk):
                part = missing[start : start + chunk]
                try:
                    sums = list(pool.map(lambda isic_id: self._put(isic_id, image(isic_id)), part))
                    self.file.sync()
                except OSError as e:
                    if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                        raise
                    raise InputError(f"{self.path}: cannot hold decoded images ({e.strerror}); {ELSEWHERE}") from None
                self.sums[[self.slot[isic_id] for isic_id in part]] = sums
                after(len(part))
        self.sums.flush()

    def _put(self, isic_id: str, image: np.ndarray) -> int:
        content = image.tobytes()
        self.file.write(self.slot[isic_id] * self.row_bytes, content)
        return _checksum(content)

    def read(self, isic_id: str) -> np.ndarray:
        """Read one image's pixels, uint8 [size, size, 3].

        Raises:
            InputError: the file is damaged.
        """
        slot = self.slot[isic_id]
        try:
            content = self.file.read(slot * self.row_bytes, self.row_bytes)
        except OSError:  # cut short since it was opened
            content = b""
        if _checksum(content) != self.sums[slot]:
            raise InputError(f"{self.path}: {isic_id} is damaged in it; delete the file, and it is rebuilt")
        return np.frombuffer(content, np.uint8).reshape(self.shape)


def _checksum(content: bytes) -> int:
    """Compute the CRC-32, with 1 in place of 0, which stands for a row that is not there."""
    return zlib.crc32(content) or 1


def _sized(path: Path, wanted: int, *, whole: bool = False) -> None:
    """Make a file of that many zeros, sparse, or with room for the `whole` of it; keep one that has the size."""
    with open(path, "ab") as file:
        if file.tell() != wanted:
            file.truncate(0)
            file.truncate(wanted)
        if whole and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, wanted)
