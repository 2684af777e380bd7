"""Whole files: their digest, and writing them so that nobody ever reads half of one."""

import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from jaxlesion.errors import InputError


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read piece by piece. InputError if unreadable."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error


def read_at(descriptor: int, offset: int, size: int, lock: Lock) -> bytes:
    """Up to `size` bytes of an open file from `offset` on, whatever other threads read of it meanwhile."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with lock:  # Windows
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def write_at(descriptor: int, offset: int, content: bytes, lock: Lock) -> None:
    """Put `content` at `offset` of an open file, whatever other threads put elsewhere in it meanwhile."""
    while content:
        if hasattr(os, "pwrite"):
            written = os.pwrite(descriptor, content, offset)
        else:
            with lock:  # Windows
                os.lseek(descriptor, offset, os.SEEK_SET)
                written = os.write(descriptor, content)
        content, offset = content[written:], offset + written


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
