"""Encoded lesion crops by id, from the HDF5 layout of the ISIC 2024 challenge or from a folder of files.

Anything wrong with an image is an InputError that names it, raised only when that image is needed.
"""

import hashlib
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Self

import numpy as np

from jaxlesion.core.errors import InputError, Refused
from jaxlesion.core.files import RandomAccessFile
from jaxlesion.data.cache import CACHE
from jaxlesion.data.decode import raw_image
from jaxlesion.data.hdf5 import MAX_BYTES, kept_index, read_hdf5, size_fault
from jaxlesion.data.hdf5_array import ArrayReader, ImageArray, find_array
from jaxlesion.data.identity import IMAGE_SUFFIX, alike, without_suffix
from jaxlesion.data.schema import valid_id

NAMED = 20  # images that a message names


def open_images(path: Path) -> "ImageSource":
    """Open an HDF5 file of images (`Hdf5Images`), or a folder of `<isic_id>.jpg` (.png, .webp, .bmp, .tif).

    Raises:
        InputError: `path` is missing, unreadable, neither of the two, or holds no image.
    """
    path = Path(path)
    try:
        if path.is_dir():
            source: ImageSource = FolderImages(path)
        elif path.is_file():
            array = find_array(path)
            source = Hdf5Images(path) if array is None else ArrayImages(path, array)
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
        """Raise InputError that counts those of `isic_ids` that are missing, or else names one refused; reads none."""
        wanted = list(isic_ids)
        if missing := [isic_id for isic_id in wanted if isic_id not in self]:
            raise InputError(f"{self.path}: {self._missing(missing, len(wanted))}")
        if self._refused:
            for isic_id in wanted:
                if isic_id in self._refused:
                    raise self._error(isic_id, self._refused[isic_id])

    def _missing(self, missing: Sequence[str], wanted: int) -> str:
        """Say which images are not there, and which others read like them."""
        what = f"for {len(missing):,} of {wanted:,} rows" if len(missing) > 1 else repr(str(missing[0]))
        if (pair := alike(self.ids, map(str, missing[:NAMED]))) is not None:
            return f"has no image {what}: the table says {pair[0]!r}, the image is called {pair[1]!r}; write ids alike"
        if len(missing) == 1:
            return f"has no image {what}; remove the row or add its image"
        named = ", ".join(repr(str(isic_id)) for isic_id in missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        return f"has no image {what}: {named}; remove these rows or add the images"

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
    """Reads files named `<isic_id>.jpg`, `.png` and so on; links may not lead out of the folder.

    Args:
        path: the folder.
        folders: those of its subfolders that are read; None for itself.
        deep: whether their subfolders are read too, but hidden ones.
        rename: make an id of every name: other characters become `_`, and where files of two folders have one
            name, the folder's is put before it. Else names that are no valid id are left out.
    """

    def __init__(self, path: Path, folders: Sequence[Path] | None = None, *, deep: bool = False, rename: bool = False):
        super().__init__(path)
        root = path.resolve()
        found = [entry for folder in folders or [path] for entry in _image_files(str(folder.resolve()), deep)]
        names = [os.path.splitext(entry.name)[0] for entry in found]
        several = rename and len(set(names)) < len(names)
        for entry, name in zip(found, names, strict=True):
            if rename:
                name = _made_id(f"{Path(entry.path).parent.name}_{name}" if several else name)
            if valid_id(name):
                self._add(name, entry, root)

    def file(self, isic_id: str) -> str:
        """Return the path of an image."""
        return self._files[isic_id]

    def _add(self, isic_id: str, entry: os.DirEntry, root: Path) -> None:
        if isic_id in self._files:
            self._refused[isic_id] = f"is there twice, as {os.path.basename(self._files[isic_id])} and {entry.name}"
        elif entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            self._refused[isic_id] = "is a link that leads out of the folder"
        elif not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
            self._refused[isic_id] = "is not a regular file"
        self._files[isic_id] = entry.path


def _image_files(folder: str, deep: bool) -> Iterator[os.DirEntry]:
    """Yield what is named like an image in a folder, by name; then that of its subfolders. Links are not entered."""
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    yield from (entry for entry in inside if IMAGE_SUFFIX.search(entry.name))
    for entry in inside if deep else ():
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _image_files(entry.path, deep)


def holds_images(folder: Path, *, deep: bool = False) -> bool:
    """Return whether a folder, or with `deep` one below it, has a file that is named like an image."""
    return next(_image_files(str(folder), deep), None) is not None


def _made_id(name: str) -> str:
    """Make a valid id of the name of a file; names that would differ only behind the 64th character stay different."""
    isic_id = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    isic_id = isic_id if isic_id[:1].isalnum() else f"x{isic_id}"
    if len(isic_id) > 64:
        isic_id = f"{isic_id[:55]}_{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return isic_id


class FileImages(_Files):
    """Reads single files, the path of each being its id; InputError for one that does not exist."""

    def __init__(self, paths: Sequence[Path]):
        super().__init__(Path("."))
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file; give image files")
        self._files = {str(path): str(path) for path in paths}


class Hdf5Images(ImageSource):
    """Reads one dataset per isic_id at the root of an HDF5 file: an encoded image, or raw pixels uint8 [h, w, 3].

    Encoded images are strings, opaque or uint8, scalar or one-dimensional. No HDF5 handle outlives a call, since none
    may cross a fork: an image in one piece is read by its offset, and for any other h5py opens the file again.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._index = index = kept_index(path, CACHE)
        self._row = {without_suffix(isic_id): row for row, isic_id in enumerate(index.ids.tolist())}
        for row in np.flatnonzero(index.reason != ""):
            self._refused[without_suffix(str(index.ids[row]))] = str(index.reason[row])
        self._lock = threading.Lock()
        self._file = RandomAccessFile(path)

    @property
    def ids(self) -> Set[str]:
        return self._row.keys()

    def _bytes(self, isic_id: str) -> bytes:
        row, index = self._row[isic_id], self._index
        offset, size = int(index.offset[row]), int(index.size[row])
        if offset < 0:
            with self._lock:
                return read_hdf5(self.path, str(index.ids[row]))
        data = self._file.read(offset, size)
        if height := int(index.height[row]):
            return raw_image(np.frombuffer(data, np.uint8).reshape(height, int(index.width[row]), 3))
        return data

    def close(self) -> None:
        self._file.close()


class NoImages(ImageSource):
    """Stands for the images of a table that was opened alone: there are none."""

    @property
    def ids(self) -> Set[str]:
        return frozenset()

    def _bytes(self, isic_id: str) -> bytes:
        raise KeyError(isic_id)

    def close(self) -> None:
        pass


class ArrayImages(ImageSource):
    """Reads one array uint8 [n, h, w, 3] of an HDF5 file, in one piece or in chunks, beside the ids of its images."""

    def __init__(self, path: Path, array: ImageArray):
        super().__init__(path)
        self._row: dict[str, int] = {}
        for row, isic_id in enumerate(array.ids):
            if isic_id in self._row:
                self._refused[isic_id] = "is there twice"
            elif valid_id(isic_id):
                self._row[isic_id] = row
        self._reader = ArrayReader(path, array)

    @property
    def ids(self) -> Set[str]:
        return self._row.keys()

    def _bytes(self, isic_id: str) -> bytes:
        return raw_image(self._reader.read(self._row[isic_id]))

    def close(self) -> None:
        self._reader.close()
