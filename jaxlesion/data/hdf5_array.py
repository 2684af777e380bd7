"""Images that lie in an HDF5 file as one array [n, h, w, 3] beside an array of their ids."""

import contextlib
import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxlesion.core.errors import Refused
from jaxlesion.core.files import RandomAccessFile
from jaxlesion.data.hdf5 import DAMAGE, MAX_BYTES, MAX_CHUNKS, inflated, is_uint8, own_dataset
from jaxlesion.data.identity import trim, without_suffix

if TYPE_CHECKING:
    import h5py

KEPT_BYTES = 64 * 2**20  # of decompressed chunks: neighbouring images share them


class ImageArray(NamedTuple):
    """Location of the array of images in a file.

    Args:
        name: of its dataset.
        ids: one for each image.
        shape: of one image.
        offset: in bytes; -1 where the array is in chunks.
    """

    name: bytes
    ids: list[str]
    shape: tuple[int, int, int]
    offset: int


def find_array(path: Path) -> ImageArray | None:
    """Find the array of images of an HDF5 file; None where there is none, or it has no ids, or the file is damaged.

    The ids are the only one-dimensional dataset of texts or whole numbers of the same length, or the one called ids or
    isic_id.
    """
    import h5py

    with contextlib.suppress(*DAMAGE), h5py.File(path, "r") as file:
        names: list[bytes] = []
        file.id.links.iterate(lambda name: names.append(name) if len(names) < 10 else True, order=h5py.h5.ITER_NATIVE)
        if len(names) >= 10:  # a file of one dataset per image
            return None
        arrays, ids = [], {}
        for name in names:
            with contextlib.suppress(Refused):
                dataset = own_dataset(file.id, name)
                shape = dataset.shape
                if len(shape) == 4 and shape[3] == 3 and is_uint8(dataset.get_type()):
                    arrays.append((name, shape))
                elif len(shape) == 1 and dataset.get_type().get_class() in (h5py.h5t.STRING, h5py.h5t.INTEGER):
                    ids[name] = shape[0]
        if len(arrays) != 1:
            return None
        ((name, shape),) = arrays
        fitting = [key for key, length in ids.items() if length == shape[0]]
        called = [key for key in fitting if key in (b"ids", b"isic_id", b"isic_ids", b"id")]
        if not (called or len(fitting) == 1):
            return None
        cells = h5py.Dataset(h5py.h5d.open(file.id, (called or fitting)[0]))[()].tolist()
        texts = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell) for cell in cells]
        offset = h5py.h5d.open(file.id, name).get_offset()
        return ImageArray(name, [without_suffix(trim(t)) for t in texts], shape[1:], -1 if offset is None else offset)
    return None


class ArrayReader:
    """Reads images of an array by their position, from many threads and after a fork; h5py only finds the chunks."""

    def __init__(self, path: Path, array: ImageArray):
        self.path, self.array = path, array
        self._file = RandomAccessFile(path)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()

    def read(self, row: int) -> np.ndarray:
        """Return one image, uint8 [h, w, 3]. Raises Refused or OSError."""
        size = int(np.prod(self.array.shape))
        if size > MAX_BYTES:
            raise Refused(f"is over {MAX_BYTES} bytes")
        if self.array.offset >= 0:
            data = self._file.read(self.array.offset + row * size, size)
            return np.frombuffer(data, np.uint8).reshape(self.array.shape)
        with self._lock:
            return self._assembled(row)

    def _assembled(self, row: int) -> np.ndarray:
        """Put an image together from the chunks that it lies in."""
        import h5py

        image = np.empty(self.array.shape, np.uint8)
        with h5py.File(self.path, "r") as file:
            try:
                dataset = own_dataset(file.id, self.array.name)
                properties = dataset.get_create_plist()
                if properties.get_layout() != h5py.h5d.CHUNKED:
                    raise Refused("is stored neither in one piece nor in chunks")
                chunk = properties.get_chunk()
                counts = [-(-side // length) for side, length in zip(self.array.shape, chunk[1:], strict=True)]
                if np.prod(chunk) > MAX_BYTES or np.prod(counts) > MAX_CHUNKS:
                    raise Refused("is stored in too large or too many chunks")
                for place in itertools.product(*(range(count) for count in counts)):
                    start = [at * length for at, length in zip(place, chunk[1:], strict=True)]
                    inside = self._chunk(dataset, (row // chunk[0] * chunk[0], *start), chunk)[row % chunk[0]]
                    target = image[tuple(slice(a, a + length) for a, length in zip(start, chunk[1:], strict=True))]
                    target[...] = inside[tuple(slice(side) for side in target.shape)]
            except DAMAGE as error:
                raise Refused(f"is damaged ({' '.join(str(error).split())})") from None
        return image

    def _chunk(self, dataset: "h5py.h5d.DatasetID", start: tuple[int, ...], chunk: tuple[int, ...]) -> np.ndarray:
        from h5py import h5z

        if start in self._kept:
            self._kept.move_to_end(start)
            return self._kept[start]
        properties = dataset.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        filters = [code for code in filters if code != h5z.FILTER_SHUFFLE]  # of single bytes, which changes nothing
        if filters not in ([], [h5z.FILTER_DEFLATE]):
            raise Refused("is compressed otherwise than by gzip, or has checksums")
        info, length = dataset.get_chunk_info_by_coord(start), int(np.prod(chunk))
        if not info.size or info.byte_offset is None or info.size > 2 * MAX_BYTES:
            raise Refused("has no data, or less than it claims")
        content = self._file.read(info.byte_offset, info.size)
        if filters and not info.filter_mask:
            content = inflated(content, length)
        if len(content) != length:
            raise Refused("has a damaged chunk")
        self._kept[start] = np.frombuffer(content, np.uint8).reshape(chunk)
        while len(self._kept) > 1 and len(self._kept) * length > KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[start]

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()
