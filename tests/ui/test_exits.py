"""Every end of a program is one line and an exit code."""

import logging
import os
import subprocess
import sys
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


def test_warnings_of_orbax_are_shown_once_and_its_noise_is_not(capsys):
    run_program(lambda: None)
    for _ in range(2):
        logging.getLogger("absl").warning("Skipping merge\nof %s", "x")
    logging.getLogger("absl").warning("Given directory is read only=%s", "x")
    logging.getLogger("absl").error("raised too")
    assert capsys.readouterr().err == "warning: Skipping merge of x\n"


def test_a_device_that_is_not_there_is_one_line():
    for name in ("cuda", "tpu", "rubbish"):
        code = "import jax; from jaxlesion.ui.exits import run_program; run_program(jax.devices)"
        environment = os.environ | {"JAX_PLATFORMS": name}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"error: JAX_PLATFORMS={name}: there is no such device here")
        assert "Traceback" not in done.stderr


def test_a_user_without_a_home_leaves_no_folder_of_that_name(tmp_path):
    code = """
import os, pwd
from pathlib import Path

def unknown(user):
    raise KeyError(user)

pwd.getpwuid = unknown
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.runtime.compile_cache import private_folder
prepare_process()
print(Path.home().is_dir(), private_folder().is_absolute())
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stderr
    assert not list(tmp_path.iterdir())
