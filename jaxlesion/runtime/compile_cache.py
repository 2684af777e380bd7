"""Compiled programs are kept between processes, so that a second start does not compile again."""

import itertools
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxlesion.core.files import write_atomic

WHOLE = "whole.json"  # name and size of each entry that was written to its end


def keep_compiled() -> Path | None:
    """Turn on JAX's persistent compilation cache in a folder that only this user can write to.

    What lies in that folder is executed, so it is made with mode 0700, and not used when somebody else
    owns it or may write to it. A folder that the user has set by JAX_COMPILATION_CACHE_DIR is left alone.

    JAX writes entries in place and never over one that is there: a half of one, left by a killed process, would make
    every later start warn and compile again. So entries that `vouch` has not seen whole are removed first.

    Returns:
        The folder; None when it cannot be used.
    """
    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    try:
        folder = private_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
        if owner.st_uid != os.getuid() or stat.S_IMODE(owner.st_mode) & 0o022:
            return None
        _remove_halves(folder)
    except (OSError, RuntimeError):  # a RuntimeError: of a user without a home
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the small ones add up to seconds
    return folder


def private_folder() -> Path:
    """Return the folder that `keep_compiled` uses unless the user has set another; RuntimeError without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxlesion" / "xla"


def vouch() -> None:
    """Note the entries that are there, so that the next start keeps them; to be called when nothing is compiling.

    An entry that another process is still writing is noted with too small a size, and compiled again at some start.
    """
    try:
        folder = private_folder()
        if jax.config.jax_compilation_cache_dir != str(folder):
            return
        if (sizes := _sizes(folder)) != _noted(folder):
            write_atomic(folder / WHOLE, json.dumps(sizes, indent=0))
    except (OSError, RuntimeError):  # as JAX does without what it cannot keep
        pass


def vouching(step: Callable) -> Callable:
    """Return `step`, which vouches for its compiled program once its first call has returned."""
    calls = itertools.count()

    def call(*args: Any) -> Any:
        out = step(*args)
        if next(calls) == 0:
            vouch()
        return out

    return call


def _remove_halves(folder: Path) -> None:
    noted = _noted(folder)
    for name, size in _sizes(folder).items():
        if noted.get(name) != size:
            (folder / name).unlink(missing_ok=True)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size of each entry by its name."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*-cache"))}


def _noted(folder: Path) -> dict[str, int]:
    try:
        return dict(json.loads((folder / WHOLE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
