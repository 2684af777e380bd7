"""Files: their digest, reading them in pieces, and writing them so that nobody ever reads half of one."""

import hashlib
import math
import os
import re
import threading
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxlesion.core.errors import InputError

LEFT_OVER = re.compile(r"\.[0-9a-f]{32}\.tmp")  # what `write_atomic` leaves when it is killed


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read piece by piece. InputError if unreadable."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error


class Pieces:
    """A file that is read, and if asked for written, in pieces: by many threads and after a fork.

    Never mapped into memory: reading what a mapped file no longer has kills the process, as does writing on a full
    disk, and every page that was used counts as the process's memory.
    """

    def __init__(self, path: Path, *, writable: bool = False):
        self.path, self._lock = path, threading.Lock()
        self._descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0))
        self._let_go = weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`. OSError where the file ends before that; takes no memory for a mere claim."""
        data = self._read(offset, size) if offset + size <= self.size else b""
        if len(data) < size:
            raise OSError(f"{self.path} ends before byte {offset + size}")
        return data

    def write(self, offset: int, content: bytes) -> None:
        """Put `content` at `offset`. OSError where the disk is full; a part of it may then be there."""
        while content:
            written = self._write(offset, content)
            content, offset = content[written:], offset + written

    def sync(self) -> None:
        """Wait until what was written has reached the disk."""
        os.fsync(self._descriptor)

    def _read(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        with self._lock:  # Windows, where no process forks
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def _write(self, offset: int, content: bytes) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._descriptor, content, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.write(self._descriptor, content)

    def close(self) -> None:
        """Let go of the file, which otherwise goes with the object; a second call does nothing."""
        self._let_go()
        self._descriptor = -1  # the number may be given to another file


def write_atomic(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write `content` (text as UTF-8, newlines as they are) so that `path` is the old file or the whole new one.

    The bytes go to a new file in the same folder, reach the disk and are then renamed. On any
    failure the new file is removed and the error (OSError as a rule) goes on to the caller.
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
    """Remove what a killed `write_atomic` has left in a folder that nobody else writes to now."""
    for path in folder.iterdir():
        if LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def without_nan(value: Any) -> Any:
    """The value with None in place of every NaN or infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
