import errno
import os
import stat
import threading

import jax
import numpy as np
import pytest
from jax._src.lru_cache import LRUCache
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxlesion.runtime import compile_cache as compilation
from jaxlesion.runtime.compile_cache import keep_compiled, loaded_ahead


@pytest.fixture
def unset(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reset_cache()  # JAX opens the folder once
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
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


def test_what_the_user_has_set_stays(unset):
    jax.config.update("jax_compilation_cache_dir", str(unset / "own"))
    assert keep_compiled() == unset / "own"
    assert not (unset / "jaxlesion").exists()


def test_an_entry_that_a_dying_process_writes_is_whole_or_absent(unset, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    cache = LRUCache(str(keep_compiled()), max_size=-1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            cache.put("program", b"compiled")
    assert cache.get("program") is None
    cache.put("program", b"compiled")
    assert cache.get("program") == b"compiled"
    cache.put("program", b"by another process")
    assert cache.get("program") == b"compiled"


def start(function, name="a step"):
    """What the first call in a new process would give, and the threads that loaded a program for it."""
    jax.clear_caches()
    step = loaded_ahead(jax.jit(function), name)
    return float(step(np.float32(3))), float(step(np.float32(4)))


def square(x):
    return x * x


def double(x):
    return x + x


@pytest.fixture
def loads(unset, monkeypatch):
    """The keys that were loaded, each with whether a thread did it."""
    keep_compiled()
    seen = []

    def load(key, *rest, load=compilation._load):
        seen.append((key.split("-")[0], threading.current_thread() is not threading.main_thread()))
        return load(key, *rest)

    monkeypatch.setattr(compilation, "_load", load)
    return seen


def test_a_second_start_loads_its_program_in_a_thread(loads, unset):
    assert start(square) == (9, 16)
    assert loads == [("jit_square", False)]  # it was not there
    assert len(list(unset.rglob("*-guess"))) == 1
    loads.clear()
    assert start(square) == (9, 16)
    assert loads == [("jit_square", True)]


def test_a_wrong_guess_is_not_run(loads):
    start(square), start(double, "another"), loads.clear()
    assert start(double) == (6, 8)
    assert sorted(loads) == [("jit_double", False), ("jit_square", True)]
    loads.clear()
    assert start(double) == (6, 8)
    assert loads == [("jit_double", True)]


def test_where_no_guess_can_be_kept_the_step_is_run(loads, unset, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compilation, "write_atomic", full)
    with pytest.warns(UserWarning, match="No space left"):  # JAX's own, of the program
        assert start(square) == (9, 16)
    assert not list(unset.rglob("*-guess"))


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1", b'{"key": "k", "options": "////", "devices": [0]}', None])
def test_a_damaged_guess_is_none(loads, unset, damage):
    start(square)
    (note,), (entry,) = unset.rglob("*-guess"), unset.rglob("jit_square*-cache")
    if damage is None:
        entry.unlink()
    else:
        note.write_bytes(damage)
    assert start(square) == (9, 16)
    loads.clear()
    assert start(square) == (9, 16)
    assert loads == [("jit_square", True)]
