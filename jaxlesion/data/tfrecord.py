"""Images from the TFRecord files that the TensorFlow dataset `isic2024` was prepared as."""

import contextlib
import struct
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from jaxlesion.core.errors import InputError, Refused
from jaxlesion.core.files import RandomAccessFile
from jaxlesion.data.sources import ImageSource

HEADER, FOOTER = struct.Struct("<QI"), 4  # of a TFRecord: length in bytes and its checksum; the record's checksum


class PreparedImages(ImageSource):
    """Reads the images of the prepared TFRecord files: record i is the lesion of row i.

    Records are found by their lengths and parsed without TensorFlow.

    Args:
        path: folder of one version, with `isic2024-<split>.tfrecord-*`.
        split: train or test.
        isic_ids: of all rows, in the order of the CSV.

    Raises:
        InputError: records are missing, cut short, or more or fewer than the ids.
    """

    def __init__(self, path: Path, split: str, isic_ids: Iterable[str]):
        from tensorflow_datasets.proto import tf_example_pb2

        super().__init__(path)
        self._example = tf_example_pb2.Example
        self._files = contextlib.ExitStack()
        try:
            spans = [span for file in sorted(path.glob(f"isic2024-{split}.tfrecord-*")) for span in self._index(file)]
            self._spans = dict(zip(isic_ids, spans, strict=True))
        except (OSError, ValueError, struct.error):
            self.close()
            raise InputError(
                f"{path}: its {split} records are not whole, not TFRecord, or not those of {split}-metadata.csv; "
                "prepare it again, in the default format"
            ) from None

    def _index(self, path: Path) -> Iterator[tuple[RandomAccessFile, int, int]]:
        """Yield file, offset and size of every record of one file."""
        file = self._files.enter_context(contextlib.closing(RandomAccessFile(path)))
        at = 0
        while at < file.size:
            size, _ = HEADER.unpack(file.read(at, HEADER.size))
            yield file, at + HEADER.size, size
            at += HEADER.size + size + FOOTER
        if at > file.size:
            raise ValueError("the last record is cut short")

    @property
    def ids(self) -> Set[str]:
        return self._spans.keys()

    def _bytes(self, isic_id: str) -> bytes:
        from google.protobuf.message import DecodeError

        file, at, size = self._spans[isic_id]
        try:
            record = self._example.FromString(file.read(at, size)).features.feature
            (image,), (owner,) = record["image"].bytes_list.value, record["isic_id"].bytes_list.value
        except (DecodeError, ValueError):
            raise Refused("has a damaged record") from None
        if owner != isic_id.encode():
            raise Refused("is not where its row in the CSV says")
        return image

    def close(self) -> None:
        self._files.close()
