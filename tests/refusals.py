"""The check that tests of bad input share."""

from collections.abc import Callable

import pytest

from jaxlesion.core.errors import InputError


def refused(action: Callable[[], object], *parts: str) -> None:
    """Assert that `action` raises an InputError of one line that has all `parts`."""
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
