"""Encoded lesion crops by id, from the HDF5 layout of the ISIC 2024 challenge or from a folder of files.

Anything wrong with an image is an InputError that names it, raised only when that image is needed.
"""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Self

import numpy as np

from jaxlesion.core.errors import InputError, Refused
from jaxlesion.core.files import RandomAccessFile
from jaxlesion.data.cache import CACHE
from jaxlesion.data.hdf5 import MAX_BYTES, kept_index, read_hdf5, size_fault
from jaxlesion.data.schema import valid_id

SUFFIXES = (".jpg", ".jpeg", ".png")


def open_images(path: Path) -> "ImageSource":
    """Open an HDF5 file with one dataset per isic_id, or a folder of `<isic_id>.jpg` (.jpeg, .png).

    Raises:
        InputError: `path` is missing, unreadable, neither of the two, or holds no image.
    """
    path = Path(path)
    try:
        if path.is_dir():
            source: ImageSource = FolderImages(path)
        elif path.is_file():
            source = Hdf5Images(path)
        else:
            raise InputError(
                f"{path}: no such file or folder; give the HDF5 file of images or a folder of <isic_id>.jpg"
            )
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check the file and its rights"
        ) from error
    if not len(source):
        source.close()
        raise InputError(f"{path}: holds no image; give the HDF5 file of images or a folder of <isic_id>.jpg")
    return source


class ImageSource(ABC):
    """Reads encoded images by id, from many threads and after a fork.

    Names that are no valid id are left out. An id whose data is refused stays listed, and is
    refused by name in `require` and `read`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._refused: dict[str, str] = {}

    @property
    @abstractmethod
    def ids(self) -> Set[str]:
        """Return all ids, in the order of the file."""

    @abstractmethod
    def _bytes(self, isic_id: str) -> bytes:
        """Read the bytes of an id that is listed and not refused; OSError or Refused when that fails."""

    def __contains__(self, isic_id: object) -> bool:
        return isic_id in self.ids

    def __len__(self) -> int:
        return len(self.ids)

    def require(self, isic_ids: Iterable[str]) -> None:
        """Raise InputError for the first of `isic_ids` that is missing or refused; reads no image."""
        for isic_id in isic_ids:
            if isic_id not in self:
                raise InputError(f"{self.path}: has no image {str(isic_id)!r}; remove the row or add its image")
            if isic_id in self._refused:
                raise self._error(isic_id, self._refused[isic_id])

    def read(self, isic_id: str) -> bytes:
        """Read the encoded bytes of one image, 1 byte to 32 MiB; InputError when missing, refused or unreadable."""
        self.require([isic_id])
        try:
            data = self._bytes(isic_id)
        except Refused as reason:
            raise self._error(isic_id, reason) from None
        except OSError as error:
            raise self._error(isic_id, f"cannot be read ({error.strerror or error})") from error
        if not 0 < len(data) <= MAX_BYTES:
            raise self._error(isic_id, size_fault(len(data)))
        return data

    @abstractmethod
    def close(self) -> None:
        """Close the file; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _error(self, isic_id: str, reason: object) -> InputError:
        return InputError(f"{self.path}: image {isic_id} {reason}; replace it or remove its row")


class _Files(ImageSource):
    """Reads each image from a file of its own."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._files: dict[str, str] = {}

    @property
    def ids(self) -> Set[str]:
        return self._files.keys()

    def _bytes(self, isic_id: str) -> bytes:
        with open(self._files[isic_id], "rb") as file:
            return file.read(MAX_BYTES + 1)

    def close(self) -> None:
        pass  # no file stays open


class FolderImages(_Files):
    """Reads a folder of `<isic_id>.jpg`, `.jpeg` or `.png`, without subfolders; links may not lead out of it."""

    def __init__(self, path: Path):
        super().__init__(path)
        root = path.resolve()
        with os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                isic_id, suffix = os.path.splitext(entry.name)
                if suffix.lower() in SUFFIXES and valid_id(isic_id):
                    self._add(isic_id, entry, root)

    def _add(self, isic_id: str, entry: os.DirEntry, root: Path) -> None:
        if isic_id in self._files:
            self._refused[isic_id] = f"is there twice, as {os.path.basename(self._files[isic_id])} and {entry.name}"
        elif entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            self._refused[isic_id] = "is a link that leads out of the folder"
        elif not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
            self._refused[isic_id] = "is not a regular file"
        self._files[isic_id] = entry.path


class FileImages(_Files):
    """Reads single files, the path of each being its id; InputError for one that does not exist."""

    def __init__(self, paths: Sequence[Path]):
        super().__init__(Path("."))
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file; give image files")
        self._files = {str(path): str(path) for path in paths}


class Hdf5Images(ImageSource):
    """Reads one dataset per isic_id at the root of an HDF5 file: string, opaque or uint8, scalar or one-dimensional.

    No HDF5 handle outlives a call, since none may cross a fork: an image in one piece is read by its
    offset, and for any other h5py opens the file again.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        index = kept_index(path, CACHE)
        self._row = {isic_id: row for row, isic_id in enumerate(index.ids.tolist())}
        self._offset, self._size = index.offset, index.size
        for row in np.flatnonzero(index.reason != ""):
            self._refused[str(index.ids[row])] = str(index.reason[row])
        self._lock = threading.Lock()
        self._file = RandomAccessFile(path)

    @property
    def ids(self) -> Set[str]:
        return self._row.keys()

    def _bytes(self, isic_id: str) -> bytes:
        row = self._row[isic_id]
        offset, size = int(self._offset[row]), int(self._size[row])
        if offset >= 0:
            return self._file.read(offset, size)
        with self._lock:
            return read_hdf5(self.path, isic_id)

    def close(self) -> None:
        self._file.close()
