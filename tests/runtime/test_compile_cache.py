"""Compiled programs are cached in a private folder; a half-written one costs at most one compilation."""

import os
import stat
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxlesion.runtime.compile_cache import WHOLE, keep_compiled, vouch


@pytest.fixture
def unset(monkeypatch, tmp_path):
    names = ("compilation_cache_dir", "compilation_cache_max_size", "persistent_cache_min_compile_time_secs")
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reset_cache()  # JAX opens the folder once
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def test_the_folder_is_private(unset):
    folder = keep_compiled()
    assert folder == unset / "jaxlesion" / "xla"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_a_folder_that_others_may_write_to_is_not_used(unset):
    folder = unset / "jaxlesion" / "xla"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_the_user_has_set_stays_as_it_is(unset):
    jax.config.update("jax_compilation_cache_dir", str(unset / "own"))
    assert keep_compiled() == unset / "own"
    vouch()
    assert not (unset / "jaxlesion").exists()
    assert not (unset / "own").exists()


PROGRAM = """
import sys, jax
from jaxlesion.runtime.compile_cache import keep_compiled, vouch
keep_compiled()
jax.jit(lambda x: x * 2 + 1)(3.0)
if sys.argv[1] == "vouch":
    vouch()
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that compiles a program in a new process and returns its cache entry and time."""

    def start(what: str = "vouch") -> tuple[os.PathLike, int]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
        environment |= {"XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-W", "error", "-c", PROGRAM, what]
        subprocess.run(command, env=environment, check=True)  # a warning would be an error
        (entry,) = (tmp_path / "jaxlesion" / "xla").glob("jit__lambda*-cache")
        return entry, entry.stat().st_mtime_ns

    return start


def test_a_whole_program_is_kept_and_one_that_a_kill_has_halved_is_compiled_again(start):
    entry, written = start()
    assert start() == (entry, written)
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    _, again = start()
    assert again != written
    assert entry.stat().st_size > len(whole) // 2
    assert start() == (entry, again)


def test_a_program_that_nobody_vouched_for_is_compiled_again(start):
    entry, written = start("die before that")
    assert start() != (entry, written)


def test_a_damaged_note_costs_one_start(start):
    entry, last = start()
    for damage in (b"", b"[1", b"3", b'{"a": {}}'):
        entry.with_name(WHOLE).write_bytes(damage)
        _, again = start()
        assert again != last, damage
        last = again
    assert start() == (entry, last)
