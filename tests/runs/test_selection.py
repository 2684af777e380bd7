"""Requested folds are sorted, unique and existing."""

import pytest

from jaxlesion.core.config import ALL_ROWS
from jaxlesion.core.errors import InputError
from jaxlesion.runs.selection import choose_folds


def test_folds_are_ascending_and_each_once():
    assert choose_folds((2, 0, 2), [0, 1, 2]) == [0, 2]
    assert choose_folds("all", [0, 1, 4]) == [0, 1, 4]
    assert choose_folds("none", [0, 1, 4]) == [ALL_ROWS]


def test_a_fold_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="--fold 3: the folds are 0, 1, 4"):
        choose_folds((0, 3), [0, 1, 4])
