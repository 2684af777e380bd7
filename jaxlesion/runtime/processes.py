"""Several processes as one run, on JAX's own runtime: how they find each other, agree, wait, and end together.

Messages and barriers go through JAX's coordination service, which lives in the first process and has no time limit.
Only arrays go through collectives. With one process, everything here does nothing.
"""

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from orbax.checkpoint import multihost

from jaxlesion.core.config import DistributedConfig
from jaxlesion.core.errors import InputError
from jaxlesion.runtime.devices import replicated, shard_batch, use_cores
from jaxlesion.runtime.signals import Stopped

WEEK = 7 * 24 * 3600 * 1000  # milliseconds: a wait ends with the news of a failure, not by a clock
GRACE = 10  # seconds for the others to learn of a failure before the failed process ends
GONE = re.compile(r"gloo|nccl|connection|unavailable|heartbeat|coordination", re.I)


@dataclass
class _Process:
    """This process among the others."""

    index: int = 0
    count: int = 1
    client: Any = None  # of JAX's coordination service
    used: int = 0  # keys and barriers so far, the same in every process
    failure: str | None = None


_me = _Process()


def process_index() -> int:
    """Return the number of this process, from 0. Unlike `jax.process_index` it does not start JAX."""
    return _me.index


def process_count() -> int:
    """Return the number of processes."""
    return _me.count


def launched(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes a launcher that JAX knows has started as one run; 1 for none, 0 if it does not say.

    An allocation is not enough: a shell in one has most of SLURM's variables, and every pod some of Kubernetes'.
    """
    if all(f"SLURM_{name}" in environ for name in ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")):
        return int(environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"]))
    if "OMPI_MCA_orte_hnp_uri" in environ:
        return int(environ.get("OMPI_COMM_WORLD_SIZE", 1))
    in_job = "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ
    return 0 if in_job and find_spec("kubernetes") is not None else 1


@contextmanager
def join_processes(config: DistributedConfig, batch_size: int) -> Iterator[None]:
    """Join the other processes while the context lasts; leaving it without an error waits for all of them.

    To be entered before JAX is first used, which starts it.

    Args:
        config: who the others are.
        batch_size: that all share.

    Raises:
        InputError: they do not find each other, or one of them is lost later.
    """
    count = config.processes or (launched() if config.launcher else 1)
    if config.coordinator is None and count == 1:
        yield
        return
    _join(config, batch_size // count if count else 0)
    try:
        yield
    except Stopped:
        pass_on = sys.exception()
    except jax.errors.JaxRuntimeError as e:
        _me.failure = str(e).splitlines()[0]
        if not GONE.search(_me.failure):
            raise
        raise InputError(
            f"process {process_index()}: another process, or the network to it, is gone ({_me.failure[:160]}); "
            "when all have ended, start them again with --resume"
        ) from None
    except BaseException as e:
        _me.failure = str(e) or type(e).__name__
        raise
    else:
        pass_on = None
    _leave()
    if pass_on is not None:
        raise pass_on


def _join(config: DistributedConfig, share: int) -> None:
    # Otherwise JAX takes SIGTERM for itself, and `signals` never sees it.
    jax.config.update("jax_enable_preemption_service", False)
    where = config.coordinator or "the launcher's first process"
    late = threading.Timer(config.start_seconds, _give_up, (where, config))
    late.daemon = True
    late.start()  # JAX itself would abort, with a stack trace
    options: dict[str, Any] = {}
    if config.coordinator is not None:
        options = {"coordinator_address": config.coordinator, "num_processes": config.processes}
        options |= {"process_id": config.index, "cluster_detection_method": "deactivate"}
        if config.coordinator.rpartition(":")[0] in (
            "localhost",
            "127.0.0.1",
            "[::1]",
        ):
            # By default every interface would listen.
            options["coordinator_bind_address"] = config.coordinator
    try:
        jax.distributed.initialize(
            initialization_timeout=config.start_seconds + 60,
            heartbeat_timeout_seconds=config.heartbeat_seconds,
            **options,
        )
    except (RuntimeError, ValueError) as e:
        reason = str(e).strip().splitlines()[0][:200]
        raise InputError(f"the processes of this run cannot be joined at {where} ({reason})") from None
    finally:
        late.cancel()
    use_cores(share)
    _me.client = multihost.get_jax_distributed_client()
    _me.index, _me.count = jax.process_index(), jax.process_count()
    threading.Thread(target=_listen, name="failures", daemon=True).start()


def _give_up(where: str, config: DistributedConfig) -> None:
    what = "not all processes came to" if config.index == 0 else "there is no process 0, or not all others, at"
    reason = f"{what} {where} within {config.start_seconds} seconds: are all started, and do they reach it?"
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(2)


def _leave() -> None:
    barrier()  # the first may still compute metrics, and JAX waits for it no longer than minutes
    jax.distributed.shutdown()
    _me.index, _me.count, _me.client = 0, 1, None


@contextmanager
def end_together() -> Iterator[None]:
    """End all processes at once when one fails, with its reason; to be wrapped around a whole program."""
    try:
        yield
    except BaseException as e:
        if _me.client is None:
            raise
        code = e.code if isinstance(e, SystemExit) else 1
        if code == 1:
            traceback.print_exc()
        _end(f"process {process_index()}: {_me.failure}", code)


def _end(reason: str, code: int) -> NoReturn:
    """Tell the others and end now. `sys.exit` would wait for threads that wait for other processes."""
    try:
        _me.client.key_value_set("jaxlesion/failed", reason)
    except Exception as e:
        if "ALREADY_EXISTS" in str(e):  # another one failed first: `_listen` ends this process
            time.sleep(GRACE)
    _wait_for_others()
    sys.stdout.flush()
    os._exit(code)


def _wait_for_others() -> None:
    """Wait until the others know, above all in the first process: the service ends with it."""
    until = time.monotonic() + GRACE
    for other in range(process_count()):
        left = int(1000 * (until - time.monotonic()))
        if other != process_index() and left > 0:
            try:
                _me.client.blocking_key_value_get(f"jaxlesion/informed/{other}", left)
            except Exception:  # the other process has ended
                return


def _listen() -> None:
    """End this process when another one fails; to be run in a thread."""
    client = _me.client
    while True:
        try:
            reason = client.blocking_key_value_get("jaxlesion/failed", WEEK)
        except Exception as e:
            if "DEADLINE_EXCEEDED" in str(e):
                continue
            return  # the service is gone: either all is over, or JAX itself ends this process now
        if not reason.startswith(f"process {process_index()}:"):
            print(f"error: {reason}", file=sys.stderr, flush=True)
            client.key_value_set(f"jaxlesion/informed/{process_index()}", "")
            if process_index() == 0:
                _wait_for_others()
            os._exit(2)
        return


def _next() -> str:
    _me.used += 1
    return f"jaxlesion/{_me.used}"


def barrier() -> None:
    """Wait until all processes have come here."""
    if process_count() > 1:
        _me.client.wait_at_barrier(_next(), WEEK)


def from_first(make: Callable[[], Any]) -> Any:
    """Call `make` in the first process, and return its result, a JSON value, in all of them."""
    if process_count() == 1:
        return make()
    key = _next()
    if process_index() == 0:
        result = json.dumps(make())
        _me.client.key_value_set(key, result)
    else:
        result = _me.client.blocking_key_value_get(key, WEEK)
    return json.loads(result)


@contextmanager
def first_alone() -> Iterator[None]:
    """Run the context in the first process, then in all others at once."""
    if process_index() > 0:
        barrier()
    yield
    if process_index() == 0:
        barrier()


@contextmanager
def in_turn() -> Iterator[None]:
    """Run the context in one process after the other: for files that several of one host would make at once."""
    for _ in range(process_index()):
        barrier()
    yield
    for _ in range(process_index(), process_count()):
        barrier()


def local_share(size: int) -> slice:
    """Return the part of each batch of `size` rows that this process loads, in the order of the mesh's devices."""
    return slice(process_index() * size // process_count(), (process_index() + 1) * size // process_count())


def gather(mine: np.ndarray, rows: int, size: int) -> np.ndarray:
    """Gather the processes' shares of `rows` rows in batches of `size`: [rows, ...], every row once.

    Args:
        mine: [this process's rows, ...], in order.
        rows: of all.
        size: of a batch, as in `share`.
    """
    if process_count() == 1 or rows == 0:
        return mine
    owner = np.arange(rows) % size * process_count() // size
    theirs = [np.flatnonzero(owner == k) for k in range(process_count())]
    padded = np.zeros((max(map(len, theirs)), *mine.shape[1:]), mine.dtype)
    padded[: len(mine)] = mine
    barrier()  # on CPUs a collective waits 30 seconds and no longer
    every = multihost_utils.process_allgather(padded)
    whole = np.empty((rows, *mine.shape[1:]), mine.dtype)
    for k, places in enumerate(theirs):
        whole[places] = every[k, : len(places)]
    return whole


class Votes:
    """Votes of all processes: the largest number that any gives, known to all one step later.

    A maximum over the devices goes after each training step and is read after the next one, so that nobody waits
    for it. One process hears itself at once.
    """

    def __init__(self, mesh: Mesh):
        self.put, self.mine, self.waiting = shard_batch(mesh), mesh.size // process_count(), None
        self.largest = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def __call__(self, number: int) -> int:
        """Give a number; return the largest of those given a call ago, 0 at first."""
        if process_count() == 1:
            return number
        said, self.waiting = self.waiting, self._cast(number)
        return 0 if said is None else int(said)

    def now(self, number: int) -> int:
        """Give a number and wait for the largest. Earlier votes are dropped."""
        self.waiting = None
        return number if process_count() == 1 else int(self._cast(number))

    def _cast(self, number: int) -> jax.Array:
        return self.largest(self.put(np.full(self.mine, number, np.int32)))


def compile_before_running(step: Callable) -> Callable:
    """Compile `step` in every process before running it: CPU collectives time out during compilation."""
    if process_count() == 1:
        return step
    compiled = None

    def call(*args: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = step.lower(*args).compile()
            barrier()
        return compiled(*args)

    return call
