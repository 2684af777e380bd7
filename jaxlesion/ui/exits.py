"""Ends of a program: errors and interrupts become one line and an exit code."""

import errno
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

from jaxlesion.core.errors import InputError

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def run_program(program: Callable[[], Any]) -> None:
    """Call `program`; turn an error of its input, or a file that cannot be written, into one line and exit code 2.

    Ctrl-C becomes one line and exit code 130. A warning becomes one line, and the program continues.
    """
    for name in ("absl", "asyncio"):  # Orbax logs every save there, and each error a dozen times
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    warnings.showwarning = _show_warning
    try:
        program()
    except InputError as e:
        reason = str(e)
    except KeyboardInterrupt:
        print("SIGINT: stopped", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except OSError as e:
        if e.errno not in UNWRITABLE:
            raise
        reason = f"{e.filename or 'a file'} cannot be written ({e.strerror}): make room, or write elsewhere"
    else:
        return
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning on one line, but none of Orbax's about a failed save, which has been raised before."""
    if "async_serialize" not in str(message):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Pass on an error that nothing catches, but none of TensorStore's threads about a save that has failed before."""
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)
