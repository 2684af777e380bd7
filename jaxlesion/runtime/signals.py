"""Signals that stop a program: training ends at a step that it can resume from, everything else ends at once."""

import os
import signal
import sys
from types import FrameType
from typing import Self

CAUGHT = (signal.SIGTERM, signal.SIGINT)  # from pre-emption or a scheduler; from Ctrl-C


class Stopped(SystemExit):
    """The program ends because of a signal, with exit code 128 + its number: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int):
        super().__init__(128 + number)


class StopSignal:
    """Catcher of SIGTERM and SIGINT while the context lasts, for the main thread.

    Until `waits` is set, and at the second signal, the process ends at once, as if it were killed. Saved files survive
    that. Otherwise the first signal is only remembered, in `number`.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.waits = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.waits or self.number is not None:
            os.write(sys.stderr.fileno(), f"{name}: stopped at once\n".encode())
            os._exit(128 + number)
        self.number = number
        os.write(sys.stderr.fileno(), f"{name}: saving after this step; once more stops at once\n".encode())

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._receive) for number in CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
