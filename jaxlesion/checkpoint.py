"""Orbax behind one small wrapper: the last two checkpoints and the best, restored by name of step."""

import shutil
from pathlib import Path
from typing import Any, Literal, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxlesion.errors import InputError

TRASH = "_trash"  # deleting is a rename into here first, so that a kill never leaves half a step that looks whole
METRIC = "metric"


class Checkpoints:
    """The checkpoints in one folder, for one writer. Use as a context manager: leaving waits for what is being saved.

    Args:
        folder: made when it does not exist, unless read-only.
        read_only: neither makes nor deletes anything.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        self.folder = folder.resolve()
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._empty_trash()
        self.read_only = read_only
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(n=2),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                # Without best_fn the metrics would not be written; the policy above decides what is kept.
                best_fn=lambda metrics: metrics[METRIC],
                preservation_policy=keep,
                todelete_subdir=None if read_only else TRASH,
                read_only=read_only,
                create=False,
            ),
            item_names=("state",),
        )

    def save(self, state: Any, *, metric: float | None = None) -> None:
        """Save the state under its `step`. The arrays are copied before this returns, the files follow.

        `metric` (higher is better) decides which is the best; one in mid-epoch has none.
        """
        self.wait()
        metrics = None if metric is None else {METRIC: metric}
        self.manager.save(int(state.step), args=ocp.args.Composite(state=ocp.args.StandardSave(state)), metrics=metrics)

    def wait(self) -> None:
        """Wait for the save under way, raise what went wrong in it, and free the space of what was dropped."""
        self.manager.wait_until_finished()
        if not self.read_only:
            self._empty_trash()

    def step(self, which: Literal["last", "best"] = "last") -> int | None:
        """The step of the last or the best checkpoint; None where there is none."""
        return self.manager.latest_step() if which == "last" else self.manager.best_step()

    def restore(self, step: int, like: Any) -> Any:
        """The state at `step`, with the structure, shapes and sharding of `like` (concrete or abstract).

        Raises:
            InputError: the checkpoint does not fit, naming the folder.
        """
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            restored = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(template)))
        except (ValueError, KeyError, FileNotFoundError) as e:
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise InputError(f"{self.folder}/{step}: the checkpoint does not fit this run ({reason[:200]})") from None
        return restored["state"]

    def close(self) -> None:
        """Wait and let go."""
        self.wait()
        self.manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _empty_trash(self) -> None:
        shutil.rmtree(self.folder / TRASH, ignore_errors=True)
