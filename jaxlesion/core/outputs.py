"""Checks that files and folders can be written, made before any work."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import STDOUT, is_stream


def check_folder(option: str, folder: Path) -> None:
    """Check that a folder is there or can be made, and written to.

    Raises:
        InputError: it cannot.
    """
    if folder == STDOUT:
        raise InputError(f"{option} -: several files are written; give a folder")
    with _named(option, folder):
        above = folder
        while not above.exists():
            if above.is_symlink() or above == above.parent:
                raise InputError(f"{option} {folder}: {above} leads nowhere; give another path")
            above = above.parent
        if not above.is_dir():
            raise InputError(f"{option} {folder}: {above} is not a folder; give another path")
        if not os.access(above, os.W_OK | os.X_OK):
            raise InputError(f"{option} {folder}: {above} cannot be written to; give another path")


def check_file(option: str, path: Path) -> None:
    """Check that a file can be written, whole or into a pipe or a device.

    Raises:
        InputError: it cannot.
    """
    with _named(option, path):
        parent = Path(os.path.realpath(path)).parent
        if path.exists():
            kind = path.stat().st_mode
            if stat.S_ISDIR(kind):
                raise InputError(f"{option} {path}: is a folder; give a file in it")
            if stat.S_ISBLK(kind) or stat.S_ISSOCK(kind):
                raise InputError(f"{option} {path}: is a disk or a socket; give another path")
            if not os.access(path, os.W_OK):
                raise InputError(f"{option} {path}: is write-protected; give another path")
        if is_stream(path):
            if not path.exists():
                raise InputError(f"{option} {path}: there is no such device; give another path")
            return
        if not parent.is_dir():
            raise InputError(f"{option} {path}: there is no such folder; make it, or give another path")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{option} {path}: its folder cannot be written to; give another path")


@contextlib.contextmanager
def _named(option: str, path: Path) -> Iterator[None]:
    """Turn the system's error for a path that cannot be looked at into an InputError."""
    try:
        yield
    except OSError as e:
        raise InputError(f"{option} {path}: cannot be written ({e.strerror}); give another path") from None
