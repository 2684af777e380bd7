"""Positions of the images in an HDF5 file, found without following anything that leads out of that file."""

import contextlib
import hashlib
import io
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxlesion.core.errors import InputError, Refused
from jaxlesion.core.files import RandomAccessFile, write_atomic
from jaxlesion.data.schema import valid_id

if TYPE_CHECKING:
    import h5py

MAX_BYTES = 32 * 2**20  # of one encoded image; the crops of the challenge are a few KiB

MAX_CHUNKS = 10_000  # of one image
PIECE = 2**20  # bytes read at a time
KEPT = 1000  # images from which on an index is kept in a file: fewer are found in under 0.1 s


LOCKED = re.compile(r"unable to lock file|already open for")
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # h5py raises any of these for it


def size_fault(size: int) -> str:
    """Say why an image of `size` bytes is refused."""
    return f"has {size} bytes where 1 to {MAX_BYTES} are allowed" if size <= MAX_BYTES else f"is over {MAX_BYTES} bytes"


class Hdf5Index(NamedTuple):
    """Holds where the images of an HDF5 file lie. Arrays alone, so that it can be stored beside a large file."""

    ids: np.ndarray  # str [n]
    offset: np.ndarray  # int64 [n], in bytes; -1 where the bytes are not in one piece (compressed, chunked, compact)
    size: np.ndarray  # int64 [n], in bytes
    reason: np.ndarray  # str [n], empty unless the image is refused
    height: np.ndarray  # int32 [n], of raw pixels; 0 where the bytes are an encoded image
    width: np.ndarray  # int32 [n], likewise


def kept_index(path: Path, folder: Path, *, at_least: int = KEPT) -> Hdf5Index:
    """Return the index of `path`, from a file in `folder` where that is still true, else rebuilt and kept there.

    An index follows from the bytes between the images alone: superblock, groups and headers. It is kept with
    a digest of these and of itself. So damage is noticed, and so is another file of the same name, size and time.
    Where the folder cannot be written to, nothing is kept. Fewer images than `at_least` are not worth a file.

    Raises:
        InputError: like `index_hdf5`.
        OSError: there is no such file.
    """
    kept = folder / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}.index.npz"
    if (index := _read_index(kept, path)) is not None:
        return index
    before = path.stat().st_mtime_ns
    index = index_hdf5(path)
    if len(index.ids) >= at_least:
        content = io.BytesIO()
        np.savez(content, **index._asdict(), digest=_digest(index, path))
        if path.stat().st_mtime_ns == before:  # else index and digest may be of different files
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(kept, content.getvalue())
            except OSError:
                pass
    return index


def _read_index(kept: Path, path: Path) -> Hdf5Index | None:
    """Read the index in `kept`; None unless it is whole and still true of `path`."""
    try:
        with np.load(io.BytesIO(kept.read_bytes()), allow_pickle=False) as arrays:
            index = Hdf5Index(*(arrays[name] for name in Hdf5Index._fields))
            return index if arrays["digest"].item() == _digest(index, path) else None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None  # not there, or damaged


def _digest(index: Hdf5Index, path: Path) -> str:
    """Compute the SHA-256 of the index and of every byte of the file that belongs to no image it locates."""
    digest = hashlib.sha256()
    for array in index:
        digest.update(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
    located = index.offset >= 0
    order = np.argsort(index.offset[located], kind="stable")
    start = index.offset[located][order]
    end = np.maximum.accumulate(start + index.size[located][order])  # two names may share one image
    file = RandomAccessFile(path)
    with contextlib.closing(file):
        for a, b in zip([0, *end.tolist()], [*start.tolist(), file.size], strict=True):
            for at in range(a, b, PIECE):
                digest.update(file.read(at, min(PIECE, b - at)))
    return digest.hexdigest()


def index_hdf5(path: Path) -> Hdf5Index:
    """Find every image of an HDF5 file without reading one: 12,000 to 20,000 datasets per second.

    Raises:
        InputError: `path` is not an HDF5 file, or its list of datasets is damaged.
    """
    import h5py

    rows = []
    try:
        end = path.stat().st_size
        with h5py.File(path, "r") as file:
            names = []
            # In the order they lie in: HDF5 sorts them otherwise, and ends the process where their list is damaged.
            file.id.links.iterate(names.append, order=h5py.h5.ITER_NATIVE)
            for name in sorted(names):
                isic_id = name.decode("ascii", "replace")
                if valid_id(isic_id):
                    rows.append((isic_id, *_examine(file.id, name, end)))
    except DAMAGE as error:
        if LOCKED.search(str(error)):
            raise InputError(
                f"{path}: is locked: another process writes to it; wait for its end. Where nobody does, set "
                "HDF5_USE_FILE_LOCKING=FALSE, or clear the mark of a writer that was killed by h5clear -s"
            ) from None
        raise InputError(
            f"{path}: not a readable HDF5 file ({_one_line(error)}); give the file of images or get it again"
        ) from error
    columns = zip(*rows, strict=True) if rows else ((),) * 6
    types = (str, np.int64, np.int64, str, np.int32, np.int32)
    return Hdf5Index(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


def _examine(group: "h5py.h5g.GroupID", name: bytes, end: int) -> tuple[int, int, str, int, int]:
    """Return one row of Hdf5Index but its id; `end` is the file's size in bytes."""
    try:
        offset, size, height, width = _locate(group, name, end)
        return offset, size, "", height, width
    except Refused as reason:
        return -1, 0, str(reason), 0, 0
    except DAMAGE as error:
        return -1, 0, f"is damaged ({_one_line(error)})", 0, 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _locate(group: "h5py.h5g.GroupID", name: bytes, end: int) -> tuple[int, int, int, int]:
    """Return offset (-1: not in one piece), size, and height and width of raw pixels (0: encoded), or raise Refused.

    Soft and external links, external storage and virtual datasets can name any file the user may
    read, so each is looked for before anything that would follow it.
    """
    from h5py import h5d

    dataset = own_dataset(group, name)
    layout = dataset.get_create_plist().get_layout()
    size, height, width = _byte_count(dataset)
    if layout == h5d.CHUNKED:
        if height:
            raise Refused("is raw pixels in chunks; store them in one piece, or all images as one array")
        _check_chunks(dataset, size)
    if layout != h5d.CONTIGUOUS:
        return -1, size, height, width
    offset = dataset.get_offset()
    if offset is None or offset + size > end:
        raise Refused("has no data, or less than it claims")
    return offset, size, height, width


def own_dataset(group: "h5py.h5g.GroupID", name: bytes) -> "h5py.h5d.DatasetID":
    """Open a dataset whose data are in this very file, or raise Refused."""
    from h5py import h5d, h5i, h5l, h5o

    if group.links.get_info(name).type != h5l.TYPE_HARD:
        raise Refused("is a link to somewhere else")
    dataset = h5o.open(group, name)
    if h5i.get_type(dataset) != h5i.DATASET:
        raise Refused("is not a dataset")
    properties = dataset.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
        raise Refused("keeps its data in another file")
    return dataset


def _check_chunks(dataset: "h5py.h5d.DatasetID", size: int) -> None:
    """Refuse chunks that are too large, too many, or not plain or gzip."""
    from h5py import h5z

    item = dataset.get_type().get_size()
    length = dataset.get_create_plist().get_chunk()[0] * item
    if length > MAX_BYTES or size > length * MAX_CHUNKS:
        raise Refused("is stored in too large a chunk" if length > MAX_BYTES else "is stored in too many chunks")
    filters = _filters(dataset)
    if item == 1:  # a shuffle of single bytes changes nothing
        filters = [code for code in filters if code != h5z.FILTER_SHUFFLE]
    if filters not in ([], [h5z.FILTER_DEFLATE]):
        raise Refused("is compressed otherwise than by gzip, or has checksums")


def _filters(dataset: "h5py.h5d.DatasetID") -> list[int]:
    properties = dataset.get_create_plist()
    return [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]


def _byte_count(dataset: "h5py.h5d.DatasetID") -> tuple[int, int, int]:
    """Return size in bytes, and height and width of raw pixels [h, w, 3] (0: an encoded image)."""
    from h5py import h5t

    kind, space = dataset.get_type(), dataset.get_space()
    shape = space.get_simple_extent_dims() or ()  # None where there is no value
    text = kind.get_class() == h5t.STRING and not kind.is_variable_str()
    raw = is_uint8(kind) and len(shape) == 3 and shape[2] == 3
    if not raw and (not (text or is_uint8(kind) or kind.get_class() == h5t.OPAQUE) or len(shape) > 1):
        raise Refused("is neither bytes (a string, opaque or uint8, scalar or one-dimensional) nor uint8 [h, w, 3]")
    size = space.get_simple_extent_npoints() * kind.get_size()
    if not 0 < size <= MAX_BYTES:
        raise Refused(size_fault(size))
    return size, *(shape[:2] if raw else (0, 0))


def is_uint8(kind: "h5py.h5t.TypeID") -> bool:
    """Return whether a type is unsigned bytes."""
    from h5py import h5t

    return kind.get_class() == h5t.INTEGER and kind.get_size() == 1 and kind.get_sign() == h5t.SGN_NONE


def read_hdf5(path: Path, isic_id: str) -> bytes:
    """Read one image that is compressed or not in one piece; opens the file for it. Raises Refused or OSError."""
    import h5py

    with h5py.File(path, "r") as file:
        name = isic_id.encode()
        _, size, reason, *_ = _examine(file.id, name, path.stat().st_size)  # the file may have changed since
        if reason:
            raise Refused(reason)
        try:
            dataset = h5py.h5d.open(file.id, name)
            if dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
                with contextlib.closing(RandomAccessFile(path)) as whole:
                    return _read_chunks(dataset, size, whole)
            data = np.empty(size, np.uint8)
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, data, dataset.get_type())
        except DAMAGE as error:
            raise Refused(f"is damaged ({_one_line(error)})") from None
    return data.tobytes()


def _read_chunks(dataset: "h5py.h5d.DatasetID", size: int, file: RandomAccessFile) -> bytes:
    """Read the bytes of a dataset in chunks. Refused where one is missing, damaged or of a length it does not claim.

    HDF5 only says where they lie. Read by HDF5, a chunk may write past the memory meant for it, 1 MB may become 1 GB,
    and 3 bytes that claim a checksum end the process.
    """
    from h5py import h5z

    item, filters = dataset.get_type().get_size(), _filters(dataset)
    length = dataset.get_create_plist().get_chunk()[0] * item
    packed = 1 << filters.index(h5z.FILTER_DEFLATE) if h5z.FILTER_DEFLATE in filters else 0
    chunks = []
    dataset.chunk_iter(lambda chunk: chunks.append(chunk) if len(chunks) < MAX_CHUNKS else True)
    if len(chunks) != -(-size // length):
        raise Refused("has no data, or less than it claims")
    data = bytearray(size)
    for chunk in chunks:
        at = chunk.chunk_offset[0] * item
        if chunk.size > 2 * MAX_BYTES or at >= size:
            raise Refused("has a damaged chunk")
        content = file.read(chunk.byte_offset, chunk.size)
        if packed & ~chunk.filter_mask:
            content = inflated(content, length)
        if len(content) != length:
            raise Refused("has a damaged chunk")
        data[at : at + length] = content[: size - at]
    return bytes(data)


def inflated(content: bytes, length: int) -> bytes:
    """Inflate a zlib stream. Refused unless the stream ends, since its checksum is compared only there."""
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(content, length + 1)  # one byte more shows a bomb, and takes no memory
    except zlib.error:
        raise Refused("has a damaged chunk") from None
    if not stream.eof:
        raise Refused("has a damaged chunk")
    return inflated
