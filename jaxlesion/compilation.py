"""Compiled programs are kept between processes, so that a second start does not compile again."""

import os
import stat
from pathlib import Path

import jax


def keep_compiled() -> Path | None:
    """Turn on JAX's persistent compilation cache in a folder that only this user can write to.

    What lies in that folder is executed, so it is made with mode 0700, and not used when somebody else
    owns it or may write to it. A folder that the user has set by JAX_COMPILATION_CACHE_DIR is left alone.

    Returns:
        The folder; None when it cannot be used.
    """
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
