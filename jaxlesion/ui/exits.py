"""Ends of a program: errors and interrupts become one line and an exit code."""

import errno
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from jaxlesion.core.errors import InputError
from jaxlesion.ui.streams import enduring_streams, finish_stdout, printable

# Of Orbax: folders that are only read, and saves in mid-epoch, which have no metric; both are meant.
NOISE = re.compile(r"read.only|tracked_metric")
UNUSABLE = {errno.ENAMETOOLONG, errno.ELOOP}
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EBADF}


def run_program(program: Callable[[], Any]) -> None:
    """Call `program`; turn an error of its input, or a file that cannot be written, into one line and exit code 2.

    Ctrl-C becomes one line and exit code 130. A warning becomes one line, and the program continues. So it does when
    nobody reads what it prints any more.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # an error of a save, which Orbax raises too
    absl = logging.getLogger("absl")  # Orbax's
    absl.handlers, absl.propagate = [_Warnings()], False
    absl.setLevel(logging.WARNING)
    sys.unraisablehook = _unraisable
    warnings.showwarning = _show_warning
    with enduring_streams():
        try:
            program()
            finish_stdout()
        except KeyboardInterrupt:
            print("SIGINT: stopped", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None
        except BrokenPipeError:  # of an output that is a pipe
            raise SystemExit(128 + signal.SIGPIPE) from None
        except (InputError, OSError, RuntimeError, AssertionError) as e:
            if (reason := _reason(e)) is None:
                raise
            print(f"error: {printable(reason)}", file=sys.stderr)
            raise SystemExit(2) from None


def _reason(error: Exception) -> str | None:
    """Return why a program cannot do its work, in one line; None for a fault of its own."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"{error.filename or 'a file'} cannot be written ({error.strerror}): make room, or write elsewhere"
    if isinstance(error, OSError) and error.errno in UNUSABLE:
        return f"{error.filename or 'a path'} cannot be used ({error.strerror}): give another path"
    names = os.environ.get("JAX_PLATFORMS")
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    if names and last.f_globals["__name__"].endswith("xla_bridge"):  # where JAX looks for devices
        return f"JAX_PLATFORMS={names}: there is no such device here; unset it, or name another, such as cpu"
    return None


class _Warnings(logging.Handler):
    """Print a warning of Orbax's on one line, once; errors are raised too, and what is in NOISE is no fault."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno == logging.WARNING and record.msg not in self.seen and not NOISE.search(text):
            self.seen.add(record.msg)
            _show_warning(text)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning on one line, but none of Orbax's about a failed save, which has been raised before."""
    if "async_serialize" not in str(message):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Pass on an error that nothing catches, but none of TensorStore's threads about a save that has failed before."""
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)
