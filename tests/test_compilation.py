import os
import stat

import jax
import pytest
from jax._src.lru_cache import LRUCache
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxlesion.compilation import keep_compiled


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
