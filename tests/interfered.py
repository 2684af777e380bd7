"""Run a program with faults injected: log its events to a file, and act at a chosen event.

    python interfered.py '{"log": "log", "at": "saving", "nth": 3, "delay": 0.1, "signal": 9}' train --data-dir ...

Events: `start`; `opened`, before the dataset is opened; `decoding`, `validating`, `predicting`; `step N rows...`, after
a step; `saving N`; `committed N`, files written but not checksums; `deleting N`, an old step was renamed into the
trash; `unlinked F`, a file in the trash was removed; `idle`, after a save; `renaming F`, a file is written but not yet
renamed.

At the nth event `at`, after `delay` seconds, the process gets the `signal`, its files are limited to `room` bytes, the
disk of the folder `fill` becomes full, or the process waits for ever (`wait`). At step `nan` the loss becomes NaN.
"""

import contextlib
import hashlib
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

PLAN: dict[str, Any] = {}
SEEN: Counter = Counter()
# What a training says on stderr when all is well: the run, its options, its folds and their progress, what to open.
NOTE = re.compile(
    r"$|a new run: |preset \w+: |  --[\w.-]+ |all options: |a fold has malignant lesions of only |fold (\d+|none)[: ]"
    r"|No --data-dir|[\d,]+ of [\d,]+ images look alike|finished: fold |  /\S+ +(the|loss|a) |    python -m jaxlesion"
)


def start(log: Path, *argv: object, program: str = "train", devices: int = 1, cwd: Path | None = None, **plan: object):
    """Start a program in a separate process, with the planned fault."""
    plan = json.dumps({"log": str(log), **plan})
    command = [sys.executable, __file__, plan, program, *map(str, argv)]
    # Keep compiled programs in a user's cache folder, one per worker, so that kills may truncate them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    own = f"{os.environ['JAX_COMPILATION_CACHE_DIR']}-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "XDG_CACHE_HOME": own}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
    )


def ended(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    """Wait for a process; return its exit code, all that it printed, and the lines of stderr that are no notes.

    Every line but a known note is kept, such as those of a traceback.
    """
    out, said = process.communicate()
    return process.returncode, out + said, [line for line in said.splitlines() if not NOTE.match(line)]


def events(log: Path) -> list[list[str]]:
    """Return the logged events, each as a list of words."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def steps_done(log: Path) -> list[int]:
    return [int(words[1]) for words in events(log) if words[0] == "step"]


def end_of(run: Path, fold: int = 0) -> dict[str, str]:
    """Return SHA-256 digests of a finished fold: its records, predictions and exact state."""
    import jax
    import numpy as np

    from jaxlesion.learning.checkpoint import Checkpoints
    from jaxlesion.learning.state import abstract_state
    from jaxlesion.runs.store import Run
    from jaxlesion.runtime.devices import data_mesh, replicated

    directory = Run.open(run).fold(fold)
    content = {name: (directory.folder / name).read_bytes() for name in ("metrics.jsonl", "oof.csv")}
    with Checkpoints(directory.checkpoints, read_only=True) as checkpoints:
        like = abstract_state(Run.open(run).config, replicated(data_mesh(1, jax.devices()[:1])))
        leaves = jax.tree.leaves(checkpoints.restore(checkpoints.step(), like))
    content["state"] = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
    return {name: hashlib.sha256(what).hexdigest() for name, what in content.items()}


def happens(what: str, about: object = "") -> None:
    with contextlib.suppress(OSError), open(PLAN["log"], "a") as file:  # the disk may be full, as planned
        file.write(f"{what} {about}\n")
    SEEN[what] += 1
    if what != PLAN.get("at") or SEEN[what] != PLAN.get("nth", 1):
        return
    if "delay" in PLAN:
        threading.Thread(target=lambda: (time.sleep(PLAN["delay"]), _act()), daemon=True).start()
    else:
        _act()


def _act() -> None:
    if "signal" in PLAN:
        os.kill(os.getpid(), PLAN["signal"])
    if "room" in PLAN:
        resource.setrlimit(resource.RLIMIT_FSIZE, (PLAN["room"], resource.RLIM_INFINITY))
    if "fill" in PLAN:
        fill(Path(PLAN["fill"]))
    if "wait" in PLAN:
        threading.Event().wait()


def fill(folder: Path) -> Path:
    """Fill the disk of a folder; return the file whose removal frees it."""
    path = folder / "filler"
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return path


def noted(move, trash):
    """Return a version of `os.replace` or `os.rename` that logs its calls as events."""

    def moved(source, target, **options):
        path = Path(target)
        step = path.name.isdecimal()
        if not step:
            happens("renaming", path.name)
        move(source, target, **options)
        if step:
            happens("deleting" if trash in path.parts else "committed", path.name)

    return moved


def before(module, name, what):
    """Log an event before each call of a module's function."""
    original = getattr(module, name)

    def called(*args, **options):
        happens(what)
        return original(*args, **options)

    setattr(module, name, called)


def interfere() -> None:
    """Patch the modules to log all other events."""
    from jaxlesion.data import open as layouts
    from jaxlesion.learning import trainer
    from jaxlesion.learning.checkpoint import TRASH, Checkpoints

    save, empty, make_train_step = Checkpoints.save, Checkpoints._empty_trash, trainer.make_train_step

    def noted_save(self, state, *, metric=None):
        self.wait()  # so that the previous save is not under way
        happens("saving", int(state.step))
        save(self, state, metric=metric)

    def slowly_empty(self):
        for path in sorted((self.folder / TRASH).rglob("*")):
            if path.is_file():
                path.unlink()
                happens("unlinked", path.name)
        empty(self)
        happens("idle")

    def spoilt(*args, **options):
        step = make_train_step(*args, **options)

        def spoilt_step(state, batch, seed):
            state, metrics = step(state, batch, seed)
            if "nan" in PLAN and PLAN["nan"] == int(state.step):
                metrics = metrics | {"loss": metrics["loss"] * float("nan")}
            return state, metrics

        return spoilt_step

    os.replace, os.rename = noted(os.replace, TRASH), noted(os.rename, TRASH)
    Checkpoints.save, Checkpoints._empty_trash = noted_save, slowly_empty
    trainer.make_train_step = spoilt
    before(layouts, "read_lesions", "opened")


def observe(event: str, **about: Any) -> None:
    """Log an event of the training."""
    if event == "step":
        happens("step", " ".join(map(str, [about["step"], *about["rows"].tolist()])))
    elif event in ("decoding", "validating", "predicting"):
        happens(event)


if __name__ == "__main__":
    PLAN |= json.loads(sys.argv[1])
    happens("start")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore SIGINT
    interfere()
    options = {"observe": observe} if sys.argv[2] == "train" else {}
    importlib.import_module(f"jaxlesion.{sys.argv[2]}").main(sys.argv[3:], **options)
