"""Which folds of a run are meant."""

from typing import Literal

from jaxlesion.core.errors import InputError


def choose_folds(wanted: tuple[int, ...] | Literal["all"], existing: list[int]) -> list[int]:
    """Return the folds that `--fold` means, ascending.

    Args:
        wanted: fold numbers, or all.
        existing: the folds that there are.

    Raises:
        InputError: a wanted one does not exist.
    """
    folds = existing if wanted == "all" else sorted(set(wanted))
    if absent := [k for k in folds if k not in existing]:
        raise InputError(f"--fold {absent[0]}: the folds are {', '.join(map(str, existing))}")
    return folds
