"""Compiled programs are kept between processes, so that a second start does not compile again."""

import os
import stat
from pathlib import Path

import jax
from jax._src.lru_cache import LRUCache  # there is no public way to how an entry is written

from jaxlesion.files import write_atomic


def keep_compiled() -> Path | None:
    """Turn on JAX's persistent compilation cache in a folder that only this user can write to.

    What lies in that folder is executed, so it is made with mode 0700, and not used when somebody else
    owns it or may write to it. A folder that the user has set by JAX_COMPILATION_CACHE_DIR is left alone.

    Returns:
        The folder; None when it cannot be used.
    """
    LRUCache.put = _put_whole
    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxlesion" / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
    except OSError:
        return None
    if hasattr(os, "getuid") and (owner.st_uid != os.getuid() or stat.S_IMODE(owner.st_mode) & 0o022):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the small ones add up to seconds
    return folder


def _put_whole(self: LRUCache, key: str, value: bytes, put=LRUCache.put) -> None:
    """Write an entry so that it is whole or not there.

    JAX writes in place, and never over an entry that is there: what a killed process has half written would make
    every later start warn and compile again, and what another process is still writing would be read as damaged.
    """
    if self.eviction_enabled or "://" in str(self.path):  # JAX locks the folder then; or it is not on a disk
        put(self, key, value)
    elif not (entry := Path(self.path) / f"{key}-cache").exists():
        write_atomic(entry, value)
