"""Orbax behind one small wrapper: the last two checkpoints and the best, restored by name of step."""

import os
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import remove_left_over, sha256, write_atomic
from jaxlesion.runtime.processes import from_first, process_count, process_index

TRASH = "_trash"  # deleting is a rename into here first, so that a kill never leaves half a step that looks whole
CHECKSUMS = "_checksums"  # of each step, as `sha256sum --check` reads them in the checkpoints' folder
DAMAGED = "_damaged"  # steps that differ from what was saved, for inspection
METRIC = "metric"
SPLIT = 2**20  # bytes: no smaller parts of an array are shared among devices. Every shape of part compiles a slice


# Orbax takes these in a path for a pattern, and TensorStore takes only UTF-8.
PATTERN = re.compile(r"[*?\[\]\\\ud800-\udfff]")


def _without_pattern(folder: Path) -> Path:
    """Return another name of a folder where its own would be taken for a pattern: that of an open descriptor.

    The descriptor stays open: TensorStore may remember what it has read by a name.

    Raises:
        InputError: the system has no such names, or several processes would each have their own.
    """
    if not PATTERN.search(str(folder)):
        return folder
    if not Path("/proc/self/fd").is_dir() or process_count() > 1:
        raise InputError(f"{folder}: checkpoints cannot be kept below a name with [ ] * ? or \\: rename that folder")
    return Path(f"/proc/self/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY)}")


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Return Orbax's handler of pytrees with another `SPLIT`."""
    kinds = ocp.type_handlers
    arrays = (jax.Array, kinds.ArrayHandler(min_slice_bytes_for_replica_parallel=SPLIT))
    registry = kinds.create_type_handler_registry(arrays, (np.ndarray, kinds.NumpyHandler()))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


class Checkpoints:
    """The checkpoints in one folder, for one run. As a context manager, it waits for the save under way.

    Of several processes, which all see the folder, each calls the same methods at the same steps: Orbax saves from
    all, and the first one alone tidies up and keeps the checksums.

    Args:
        folder: made when it does not exist, unless read-only.
        read_only: neither makes nor deletes anything.

    Raises:
        InputError: a checkpoint is damaged, and it is read-only or there is no sound one. Otherwise the damaged ones
            are set aside with a warning, and training resumes from a sound one.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        self.folder, self.read_only = folder.resolve(), read_only
        if read_only:
            self._set_damaged_aside()
        else:
            from_first(self._tidy)
        self.thread, self.saving, self.failed = ThreadPoolExecutor(1, "checkpoint"), None, False
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(n=2),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self.plain = _without_pattern(self.folder)
        self.manager = ocp.CheckpointManager(
            self.plain,
            options=ocp.CheckpointManagerOptions(
                # Without best_fn the metrics would not be written; the policy above decides what is kept.
                best_fn=lambda metrics: metrics[METRIC],
                preservation_policy=keep,
                todelete_subdir=None if read_only else TRASH,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,  # of saves that were killed
                create=False,
            ),
            item_handlers={"state": _handler()},
        )

    def _tidy(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        last = max((int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()), default=None)
        if last is not None and not self._checksums(last).is_file():
            self._put_back()  # a kill came before the last one had been read back
        self._empty_trash()
        self._set_damaged_aside()

    def save(self, state: Any, *, metric: float | None = None) -> None:
        """Save the state under its `step`. The arrays are copied before this returns, the files follow.

        `metric` (higher is better) decides which is the best; one in mid-epoch has none.
        """
        self.wait()
        metrics, step = None if metric is None else {METRIC: metric}, int(state.step)
        self.manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)), metrics=metrics)
        self.saving = self.thread.submit(self._finish, step, jax.tree.map(ocp.utils.to_shape_dtype_struct, state))

    def wait(self) -> None:
        """Wait for the save under way.

        Raises:
            InputError: it could not be written or read back; the checkpoints before it are as they were.
        """
        if self.saving is None:
            return
        saving, self.saving = self.saving, None
        try:
            saving.result()
        except InputError:
            self.failed = True
            raise
        except (OSError, ValueError) as e:  # Orbax passes on what the system said, TensorStore a ValueError
            self.failed = True
            # TensorStore's message names every layer; the system's own words stand after the last path.
            said = re.search(r": ([A-Z][a-z -]+) \[os_error_code", str(e))
            reason = e.strerror if isinstance(e, OSError) else said[1] if said else " ".join(str(e).split())[:200]
            raise InputError(f"{self.folder}: a checkpoint cannot be written ({reason}); make room there") from None

    def _finish(self, step: int, like: Any) -> None:
        """Read a finished save back, write its checksums, and free the space of the steps dropped for it."""
        self.manager.wait_until_finished()
        if process_index() > 0:
            return
        if (what := self._unreadable(step, like)) is not None:
            self._set_aside(step)
            self._put_back()
            raise InputError(f"{self.folder}: step {step} cannot be read back ({what}), and is set aside in {DAMAGED}")
        lines = [f"{sha256(path)}  {path.relative_to(self.folder)}\n" for path in _files(self.folder / str(step))]
        (self.folder / CHECKSUMS).mkdir(exist_ok=True)
        remove_left_over(self.folder / CHECKSUMS)
        write_atomic(self._checksums(step), "".join(lines))
        for path in (self.folder / CHECKSUMS).iterdir():
            if path.stem.isdecimal() and not (self.folder / path.stem).is_dir():
                path.unlink()
        self._empty_trash()

    def _unreadable(self, step: int, like: Any) -> str | None:
        """Return why a saved step is not a state like that one; None if it is. Reads all of it, into host memory."""
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), like)
        try:
            found = _handler().restore(
                self.plain / str(step) / "state", args=ocp.args.PyTreeRestore(like, restore_args=as_numpy)
            )
            shapes = [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in jax.tree.leaves(found)]
        except Exception as e:  # whatever Orbax, TensorStore or the system says
            return " ".join((str(e) or type(e).__name__).split())[:200]
        return None if shapes == [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(like)] else "other shapes"

    def _put_back(self) -> None:
        """Put back the steps that were dropped for the last one."""
        for path in (self.folder / TRASH).glob("*"):
            if path.name.isdecimal() and not (self.folder / path.name).exists():
                path.rename(self.folder / path.name)

    def damage(self, step: int) -> str | None:
        """Return the first file of the checkpoint that differs from what was saved, and how; None if none does.

        A kill between the checkpoint and its checksums leaves it without: then there is nothing to compare with.
        """
        folder = self.folder / str(step)
        if not folder.is_dir():
            return f"{folder} is gone"
        if not self._checksums(step).is_file():
            return None
        summed = set()
        for line in self._checksums(step).read_text(errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            path = self.folder / name
            if not path.is_file():
                return f"{path} is gone"
            if sha256(path) != digest:
                return f"{path} is not what was saved"
            summed.add(path)
        # The checksums may be what is damaged: cut short, they would vouch for what they do not name.
        unknown = [path for path in _files(folder) if path not in summed]
        return f"{unknown[0]} is not in {self._checksums(step)}" if unknown else None

    def _set_damaged_aside(self) -> None:
        """Move damaged checkpoints aside, even unrequested ones: finding the best reads all."""
        steps = {int(p.name) for p in self.folder.glob("*/") if p.name.isdecimal()}
        # Only older steps than the last are ever deleted, so checksums of a later one are those of a step that is lost.
        summed = {int(p.stem) for p in (self.folder / CHECKSUMS).glob("*.sha256") if p.stem.isdecimal()}
        steps |= {step for step in summed if step > max(steps, default=-1)}
        bad = {step: what for step in sorted(steps, reverse=True) if (what := self.damage(step)) is not None}
        if bad and (self.read_only or len(bad) == len(steps)):
            what = next(iter(bad.values()))
            raise InputError(
                f"{self.folder}: a checkpoint is damaged ({what}); put the file back, or train the fold again"
            )
        for step, what in bad.items():
            warnings.warn(f"{what}; step {step} is set aside in {DAMAGED}", stacklevel=5)
            self._set_aside(step)

    def _set_aside(self, step: int) -> None:
        (self.folder / DAMAGED).mkdir(exist_ok=True)
        if (self.folder / str(step)).is_dir():
            shutil.rmtree(self.folder / DAMAGED / str(step), ignore_errors=True)
            (self.folder / str(step)).rename(self.folder / DAMAGED / str(step))
        self._checksums(step).unlink(missing_ok=True)

    def step(self, which: Literal["last", "best"] = "last") -> int | None:
        """Return the step of the last or the best checkpoint; None where there is none."""
        return self.manager.latest_step() if which == "last" else self.manager.best_step()

    def restore(self, step: int, like: Any) -> Any:
        """Restore the state at `step`, with the structure, shapes and sharding of `like` (concrete or abstract).

        Raises:
            InputError: the checkpoint does not fit, naming the folder.
        """
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        how = ocp.checkpoint_utils.construct_restore_args(template)
        wanted = ocp.args.Composite(state=ocp.args.PyTreeRestore(template, restore_args=how))
        try:
            restored = self.manager.restore(step, args=wanted)
        except (ValueError, KeyError, FileNotFoundError) as e:
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            reason = reason.replace(str(self.plain), str(self.folder))
            raise InputError(f"{self.folder}/{step}: the checkpoint does not fit this run ({reason[:200]})") from None
        return restored["state"]

    def close(self) -> None:
        """Wait and let go."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()
            with suppress(Exception) if self.failed else nullcontext():  # it raises the same again
                self.manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checksums(self, step: int) -> Path:
        return self.folder / CHECKSUMS / f"{step}.sha256"

    def _empty_trash(self) -> None:
        shutil.rmtree(self.folder / TRASH, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
