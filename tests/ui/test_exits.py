"""Every end of a program is one line and an exit code."""

import warnings

import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.ui.exits import run_program


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InputError("no such file"), 2, "error: no such file"),
        (KeyboardInterrupt(), 130, "SIGINT: stopped"),
        (
            OSError(28, "No space left on device", "a.csv"),
            2,
            "error: a.csv cannot be written (No space left",
        ),
        (OSError(30, "Read-only file system"), 2, "error: a file cannot be written (Read-only file system)"),
    ],
)
def test_one_line_and_an_exit_code(raised, code, line, capsys):
    def program():
        raise raised

    with pytest.raises(SystemExit) as left:
        run_program(program)
    assert left.value.code == code
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(line)


def test_what_is_a_fault_of_ours_is_not_hidden():
    for raised in (ValueError("odd"), OSError(2, "No such file or directory", "a.csv")):
        with pytest.raises(type(raised)):
            run_program(lambda raised=raised: (_ for _ in ()).throw(raised))


def test_a_warning_is_one_line_and_what_a_failed_save_leaves_is_none(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restored afterwards
    run_program(lambda: None)
    warnings.showwarning(UserWarning("one\n  two"), UserWarning, "file.py", 3)
    left = RuntimeWarning("coroutine 'async_serialize_from_host.<locals>.write_fragment' was never awaited")
    warnings.showwarning(left, RuntimeWarning, "file.py", 3)
    assert capsys.readouterr().err == "warning: one two\n"
