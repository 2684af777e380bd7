"""Signals that stop a program: training ends at a step that it can resume from, everything else ends at once."""

import builtins
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Self

# From pre-emption or a scheduler; from Ctrl-C; from a terminal that is closed.
CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(SystemExit):
    """The program ends because of a signal, with exit code 128 + its number: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int):
        super().__init__(128 + number)


def _goes_on() -> bool:
    """Return whether this process is a notebook's kernel or a console, which a signal must not end."""
    return hasattr(sys, "ps1") or hasattr(builtins, "get_ipython") or "ipykernel" in sys.modules


def _tell(text: str) -> None:
    """Write a line to standard error, if it is there, from within a signal handler."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's has no descriptor
        os.write(sys.stderr.fileno(), f"{text}\n".encode())


class StopSignal:
    """Catcher of SIGTERM, SIGINT and SIGHUP while the context lasts; of none outside the main thread.

    Until `waits` is set, and at the second signal, a program ends at once, as if it were killed. Saved files survive
    that. In a notebook the signal then does what it did before. Otherwise the first signal is only remembered, in
    `number`.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.waits = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.waits or self.number is not None:
            _tell(f"{name}: stopped at once")
            if not _goes_on():
                os._exit(128 + number)
            signal.signal(number, self.before[number])
            return signal.raise_signal(number)  # of which the handler that was there before hears
        self.number = number
        _tell(f"{name}: saving after this step; once more stops at once")

    def __enter__(self) -> Self:
        caught = CAUGHT if threading.current_thread() is threading.main_thread() else ()
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # as under nohup
            caught = [number for number in caught if number != signal.SIGHUP]
        self.before = {number: signal.signal(number, self._receive) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
