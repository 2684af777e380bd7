"""The check that tests of bad input share."""

from collections.abc import Callable
from types import ModuleType

import pytest

from jaxlesion.core.errors import InputError


def refused(action: Callable[[], object], *parts: str) -> None:
    """Assert that `action` raises an InputError of one line that has all `parts`."""
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def refusal(capsys: pytest.CaptureFixture, program: ModuleType, *argv: object) -> str:
    """Return the one line that a command refuses its arguments with, at exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        program.main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n")) == (2, 1), error
    return error
