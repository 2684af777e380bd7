"""Compiled programs are kept between processes, so that a second start does not compile again."""

import base64
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache  # there is no public way to how an entry is written, nor to loading one early
from jax._src.lib import xla_client
from jax._src.lru_cache import LRUCache

from jaxlesion.core.files import write_atomic

_guessed: dict[str, Future] = {}  # by its key, the program that a thread loads or has loaded
_asked: tuple[str, Any, Any] | None = None  # key, options and devices of the program that was last asked for


def keep_compiled() -> Path | None:
    """Turn on JAX's persistent compilation cache in a folder that only this user can write to.

    What lies in that folder is executed, so it is made with mode 0700, and not used when somebody else
    owns it or may write to it. A folder that the user has set by JAX_COMPILATION_CACHE_DIR is left alone.

    Returns:
        The folder; None when it cannot be used.
    """
    LRUCache.put = _put_whole
    compilation_cache.get_executable_and_time = _get
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


def loaded_ahead(step: Callable, name: str) -> Callable:
    """`step`, whose compiled program a thread begins to load, if a step of this `name` was run here before.

    Only a traced step tells which program it needs, and loading that of a large network takes as long as tracing it.
    So the one that was needed last is taken for a guess, and loaded meanwhile. A wrong guess costs the thread's time;
    what is run is decided by JAX's own key, as ever.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not folder or "://" in folder or jax.process_count() > 1:
        return step
    note, called = Path(folder) / f"{hashlib.sha256(name.encode()).hexdigest()}-guess", False
    _begin_to_load(note)

    def call(*args: Any) -> Any:
        global _asked
        nonlocal called
        if called:
            return step(*args)
        called, _asked = True, None
        out = step(*args)
        with contextlib.suppress(OSError):  # as JAX does without what it cannot keep
            _write(note)
        return out

    return call


def _begin_to_load(note: Path) -> None:
    _guessed.clear()
    try:
        guess = json.loads(note.read_bytes())
        options = xla_client.CompileOptions.ParseFromString(base64.b64decode(guess["options"]))
        by_id = {device.id: device for device in jax.devices()}
        devices = xla_client.DeviceList(tuple(by_id[i] for i in guess["devices"]))
        key, client = str(guess["key"]), jax.devices()[0].client
    except Exception:  # whatever is wrong with a guess, there is none
        return
    pool = ThreadPoolExecutor(1, "load-program")
    _guessed[key] = pool.submit(_load, key, options, client, devices)
    pool.shutdown(wait=False)


def _get(key: str, options: Any, client: Any, devices: Any, *rest: Any) -> tuple[Any, int | None]:
    """JAX's reading of an entry, but for the one that was loaded ahead."""
    global _asked
    _asked = key, options, devices
    future = _guessed.pop(key, None)
    if future is not None and future.exception() is None and future.result()[0] is not None:
        return future.result()
    return _load(key, options, client, devices, *rest)


_load = compilation_cache.get_executable_and_time


def _write(note: Path) -> None:
    if _asked is None:
        return
    key, options, devices = _asked
    encoded = base64.b64encode(options.SerializeAsString()).decode()
    guess = json.dumps({"key": key, "options": encoded, "devices": [device.id for device in devices]}).encode()
    if not note.exists() or note.read_bytes() != guess:
        write_atomic(note, guess)
