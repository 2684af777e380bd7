"""The programs, interfered with: notes what happens into a file, and does what it is told to when it happens.

    python interfered.py '{"log": "log", "at": "saving", "nth": 3, "delay": 0.1, "signal": 9}' train --data-dir ...

Events: `start`; `opened`, the dataset is to be; `decoding`, `validating`, `predicting`; `step N rows...` done; `saving
N`; `committed N`, its files are there, without checksums; `deleting N`, an old step was renamed into the trash;
`unlinked F` from it; `idle` after a save; `renaming F`, a file is written and not yet renamed.

At the nth event `at`, after `delay` seconds, there is the `signal`, or files get no larger than `room` bytes, or the
disk of the folder `fill` becomes full, or the process waits for ever (`wait`). At step `nan` the loss becomes NaN.
"""

import contextlib
import hashlib
import importlib
import json
import os
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


def start(log: Path, *argv: object, program: str = "train", devices: int = 1, cwd: Path | None = None, **plan: object):
    """A program in a process of its own, with what is to happen to it."""
    plan = json.dumps({"log": str(log), **plan})
    command = [sys.executable, __file__, plan, program, *map(str, argv)]
    # Compiled programs in a folder as a user has it, of this worker alone, so that kills may halve them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    own = f"{os.environ['JAX_COMPILATION_CACHE_DIR']}-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "XDG_CACHE_HOME": own}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
    )


def ended(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    """Exit code, what was printed, and the lines of stderr, of a process when it has ended."""
    out, errors = process.communicate()
    return process.returncode, out, errors.splitlines()


def events(log: Path) -> list[list[str]]:
    """What happened, each as its words."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def steps_done(log: Path) -> list[int]:
    return [int(words[1]) for words in events(log) if words[0] == "step"]


def end_of(run: Path, fold: int = 0) -> dict[str, str]:
    """SHA-256 of all that a fold has at its end: its records, its predictions, and its state to the last bit."""
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
    """Leave no room on the disk of a folder; room is made by removing the file that this returns."""
    path = folder / "filler"
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return path


def noted(move, trash):
    """`os.replace` or `os.rename`, whose calls are events."""

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
    """Make calls of a module's function an event."""
    original = getattr(module, name)

    def called(*args, **options):
        happens(what)
        return original(*args, **options)

    setattr(module, name, called)


def interfere() -> None:
    """Put the other events into the modules."""
    from jaxlesion.data import dataset
    from jaxlesion.learning import trainer
    from jaxlesion.learning.checkpoint import TRASH, Checkpoints

    save, empty, make_train_step = Checkpoints.save, Checkpoints._empty_trash, trainer.make_train_step

    def noted_save(self, state, *, metric=None):
        self.wait()  # so that the one before is not what is under way
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

        def spoilt_step(state, batch):
            state, metrics = step(state, batch)
            if "nan" in PLAN and PLAN["nan"] == int(state.step):
                metrics = metrics | {"loss": metrics["loss"] * float("nan")}
            return state, metrics

        return spoilt_step

    os.replace, os.rename = noted(os.replace, TRASH), noted(os.rename, TRASH)
    Checkpoints.save, Checkpoints._empty_trash = noted_save, slowly_empty
    trainer.make_train_step = spoilt
    before(dataset, "read_lesions", "opened")


def observe(event: str, **about: Any) -> None:
    """Note an event of the training."""
    if event == "step":
        happens("step", " ".join(map(str, [about["step"], *about["rows"].tolist()])))
    elif event in ("decoding", "validating", "predicting"):
        happens(event)


if __name__ == "__main__":
    PLAN |= json.loads(sys.argv[1])
    happens("start")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
    interfere()
    options = {"observe": observe} if sys.argv[2] == "train" else {}
    importlib.import_module(f"jaxlesion.{sys.argv[2]}").main(sys.argv[3:], **options)
