"""Ranges of options, in words and as a test: they stand beside the field, as `Annotated[int, at_least(1)]`."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Range(NamedTuple):
    """Values that an option may have.

    Args:
        words: for messages, after "must be".
        holds: whether a value is in the range.
    """

    words: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Range:
    """Return the range from `low` up."""
    return Range(f"at least {low}", lambda x: x >= low)


def between(low: float, high: float) -> Range:
    """Return the range from `low` to `high`, both included."""
    return Range(f"{low} to {high}", lambda x: low <= x <= high)


ABOVE_0 = Range("above 0", lambda x: x > 0)
ABOVE_0_FINITE = Range("above 0, and finite", lambda x: 0 < x < math.inf)
FROM_0_FINITE = Range("0 or more, and finite", lambda x: 0 <= x < math.inf)
FRACTION = Range("a fraction in (0, 1]", lambda x: 0 < x <= 1)
BELOW_1 = Range("in [0, 1)", lambda x: 0 <= x < 1)
INSIDE_0_1 = Range("in (0, 1)", lambda x: 0 < x < 1)


def out_of_range(config: Any, prefix: str = "") -> Iterator[tuple[str, Range, Any]]:
    """Yield dotted name, range and value of each field outside its range; None is in every range."""
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from out_of_range(value, f"{prefix}{name}.")
        for allowed in getattr(hint, "__metadata__", ()):
            if isinstance(allowed, Range) and value is not None and not allowed.holds(value):
                yield prefix + name, allowed, value
