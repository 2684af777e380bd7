"""Files: their digest, random access, and writing that never leaves half a file."""

import contextlib
import hashlib
import math
import os
import re
import stat
import sys
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxlesion.core.errors import InputError

STDOUT = Path("-")
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


def is_stream(path: Path) -> bool:
    """Return whether writing to `path` replaces nothing: `-` (standard output), a pipe, a device, /dev/stdout.

    Files in /dev/shm, which is a file system in memory, are files as any other.

    Raises:
        OSError: the path cannot be looked at, such as one that is too long.
    """
    if path == STDOUT or os.path.realpath(path.parent).startswith(("/dev/fd", "/proc/")):
        return True  # /dev/fd/3 may be a regular file that other output goes to as well
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return os.path.realpath(path.parent) == "/dev"


def write_atomic(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write `content` (text as UTF-8, newlines as they are) so that `path` is the old file or the whole new one.

    The bytes go to a new file in the same folder, reach the disk and are then renamed. A link stays, and its target is
    written. On any failure the new file is removed and the error, as a rule an OSError, reaches the caller. A path of
    which `is_stream` is true is written to directly.
    """
    content = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    content = [content] if isinstance(content, bytes) else content
    if is_stream(path := Path(path)):
        return _write_stream(path, content)
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.writelines(content)
            file.flush()
            with contextlib.suppress(FileNotFoundError):  # a new file has the mode that the umask gives
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path).st_mode))
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not that of the file that is gone
        raise


def _write_stream(path: Path, content: Iterable[bytes]) -> None:
    if path != STDOUT:
        with open(path, "ab", buffering=0) as file:
            for part in content:
                view = memoryview(part)
                while view:
                    view = view[file.write(view) :]
        return
    sys.stdout.flush()
    for part in content:
        if (raw := getattr(sys.stdout, "buffer", None)) is not None:
            raw.write(part)
            raw.flush()
        else:  # a notebook's
            sys.stdout.write(part.decode(errors="replace"))
    if (lost := getattr(sys.stdout, "lost", None)) is not None:
        raise lost


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
