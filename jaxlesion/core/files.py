"""Files: their digest, random access, and writing that never leaves half a file."""

import hashlib
import math
import os
import re
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxlesion.core.errors import InputError

LEFT_OVER = re.compile(r"\.[0-9a-f]{32}\.tmp")  # the temporary file of a killed `write_atomic`


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file as 64 hexadecimal digits, a part at a time; InputError if unreadable."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error


class RandomAccessFile:
    """Reads, and if asked writes, parts of a file: from many threads and after a fork (Linux and macOS).

    Never mapped into memory: reading past the end of a mapped file kills the process, as does writing on a full disk,
    and every page that was used counts as the process's memory.

    Args:
        path: an existing file.
        writable: whether `write` may be called.
    """

    def __init__(self, path: Path, *, writable: bool = False):
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self._let_go = weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; OSError where the file ends before, without memory for a mere claim."""
        data = os.pread(self._descriptor, size, offset) if offset + size <= self.size else b""
        if len(data) < size:
            raise OSError(f"{self.path} ends before byte {offset + size}")
        return data

    def write(self, offset: int, content: bytes) -> None:
        """Put `content` at `offset`; OSError where the disk is full, and a part of it may then be there."""
        while content:
            written = os.pwrite(self._descriptor, content, offset)
            content, offset = content[written:], offset + written

    def sync(self) -> None:
        """Wait until all written bytes have reached the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file, which otherwise closes with the object; a second call does nothing."""
        self._let_go()
        self._descriptor = -1  # the number may be given to another file


def write_atomic(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write `content` (text as UTF-8, newlines as they are) so that `path` is the old file or the whole new one.

    The bytes go to a new file in the same folder, reach the disk and are then renamed. On any
    failure the new file is removed and the error, as a rule an OSError, reaches the caller.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            content = content.encode() if isinstance(content, str) else content
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not that of the file that is gone
        raise


def remove_left_over(folder: Path) -> None:
    """Remove the temporary files of a killed `write_atomic` in a folder that no other process writes to."""
    for path in folder.iterdir():
        if LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def without_nan(value: Any) -> Any:
    """Replace every NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
