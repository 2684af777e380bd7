"""Standard output and error that end no work: a reader that has gone, a closed one, names that cannot be encoded."""

import codecs
import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

GONE = {errno.EPIPE, errno.EIO, errno.EBADF}  # nobody reads any more: a pipe, a terminal, a closed descriptor
ERRORS = "jaxlesion.names"  # of an encoding
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """Return `text` on one line: control characters, as a file's name may have, as escapes."""
    return CONTROL.sub(lambda character: character[0].encode("unicode_escape").decode(), text)


def _as_given(error: UnicodeError) -> tuple[bytes, int]:
    """Encode what the encoding lacks: bytes of names that were not UTF-8 as they were, others as escapes."""
    parts = []
    for character in error.object[error.start : error.end]:
        escaped = "\udc80" <= character <= "\udcff"  # PEP 383
        parts.append(character.encode("ascii", "surrogateescape" if escaped else "backslashreplace"))
    return b"".join(parts), error.end


codecs.register_error(ERRORS, _as_given)


class EnduringStream:
    """A text stream whose writing never fails: after the first error, which is kept in `lost`, nothing is written.

    Otherwise hours of training would end with the terminal that they were started from.

    Args:
        stream: anything with `write`; None for a closed one.
    """

    def __init__(self, stream: TextIO | None):
        closed = OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
        self.stream, self.lost = stream, None if stream else closed

    def write(self, text: str) -> int:
        """Write, or do nothing."""
        self._do("write", text)
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing."""
        self._do("flush")

    def _do(self, name: str, *args: str) -> None:
        if self.lost is None:
            try:
                getattr(self.stream, name)(*args)
            except (OSError, ValueError) as e:  # a ValueError: of a closed file
                self.lost = e if isinstance(e, OSError) else OSError(errno.EBADF, str(e))
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, self.stream.fileno())  # else Python complains when it flushes the rest at its end
                    os.close(null)

    def isatty(self) -> bool:
        """Return whether it is a terminal that can be written to."""
        return self.lost is None and self.stream.isatty()

    def __getattr__(self, name: str) -> Any:
        if self.stream is None:
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextlib.contextmanager
def enduring_streams() -> Iterator[None]:
    """Make sys.stdout and sys.stderr enduring while the context lasts."""
    before = sys.stdout, sys.stderr
    errors = [getattr(stream, "errors", None) for stream in before]
    _encode(before, [ERRORS, ERRORS])
    if None in before:
        _occupy_closed()
    sys.stdout, sys.stderr = map(EnduringStream, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _encode(before, errors)
        sys.stdout, sys.stderr = before


def _encode(streams: Sequence[TextIO | None], errors: Sequence[str | None]) -> None:
    """Set how each stream writes what its encoding lacks; a notebook's has no such setting."""
    for stream, wanted in zip(streams, errors, strict=True):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.reconfigure(errors=wanted)


def finish_stdout() -> None:
    """Raise the OSError by which standard output was lost, such as a full disk, unless its reader has gone."""
    sys.stdout.flush()
    if (lost := getattr(sys.stdout, "lost", None)) is not None and lost.errno not in GONE:
        raise OSError(lost.errno, lost.strerror, "standard output")


def _occupy_closed() -> None:
    """Open the null device as each closed descriptor of 0 to 2: else the next file gets it, and a library's words."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
