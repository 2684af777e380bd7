"""One mesh axis, `data`: the batch is split over it, everything else is on every device."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlesion.core.errors import InputError
from jaxlesion.runtime.memory import knows_options

DATA = "data"  # the axis
HELD_SHARE = 0.25  # of a device's memory, in which `--data.on-device auto` holds images
OPTIONS = {  # of XLA
    "gpu": ("xla_gpu_enable_triton_gemm", False),
    "cpu": ("xla_cpu_scheduler_type", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
}
LEAST_SHARE = 8  # images of a batch for which a core pays


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(batch_size: int) -> None:
    """Make each core a JAX device where there is no accelerator, unless JAX_NUM_CPU_DEVICES says otherwise.

    XLA on the CPU runs most convolutions on one core, whatever it has: predicting is a third faster when each core has
    its share of the batch, of at least 8 images. To be called before JAX is first used; later it does nothing.
    """
    if jax.config.jax_num_cpu_devices < 1:
        most = min(cores(), max(1, batch_size // LEAST_SHARE))
        with contextlib.suppress(RuntimeError):  # JAX is in use already
            jax.config.update("jax_num_cpu_devices", _divisor(batch_size, most))


def _divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` up to `most`."""
    return next(n for n in range(most, 0, -1) if number % n == 0)


def data_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """Make a mesh of all devices of all processes, or of those given; of cores, as many as split the batch evenly.

    Raises:
        InputError: the batch cannot be split evenly between accelerators, or cores of several processes.
    """
    if devices is None:  # a process has neighbours of them, and so a contiguous share of each batch
        devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
        if len(set(Counter(d.process_index for d in devices).values())) > 1:
            raise InputError("the processes of this run have different numbers of devices: give each the same")
    if devices[0].platform == "cpu" and jax.process_count() == 1:
        devices = devices[: _divisor(batch_size, len(devices))]
    if batch_size % len(devices):
        raise InputError(f"the batch-size {batch_size} is not a multiple of the {len(devices)} devices: give another")
    return _mesh(devices)


def _mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))


def platform_of(mesh: Mesh) -> str:
    """Return the platform of a mesh's devices: "cpu", "gpu" and so on."""
    return mesh.devices.flat[0].platform


def compiler_options(platform: str | None) -> dict[str, bool | str]:
    """Return XLA's options for the large programs of a platform; what XLA_FLAGS says of them holds.

    On a GPU XLA searches for the fastest kernel of each matrix product. With its own (Triton) among them, B1's training
    step was not compiled after six minutes; without them in one (docs/performance.md). On a CPU XLA prefers an order in
    which much could run at the same time, and holds more memory for it; here a device is one core.
    """
    name, value = OPTIONS.get(platform, (None, None))
    unset = name and name not in os.environ.get("XLA_FLAGS", "")
    return {name: value} if unset and knows_options() else {}


def local_mesh(mesh: Mesh) -> Mesh:
    """Return the mesh of this process's devices among those of `mesh`."""
    mine = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return mesh if len(mine) == mesh.size else _mesh(mine)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that are the same on every device."""
    return NamedSharding(mesh, P())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Copy host arrays, the same in every process, to every device of the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(x)), tree)


def local_view(mesh: Mesh, tree: Any) -> Any:
    """View replicated arrays on this process's devices, without copying."""
    if (mine := local_mesh(mesh)) is mesh:
        return tree

    def view(x: jax.Array) -> jax.Array:
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, replicated(mine), shards)

    return jax.tree.map(view, tree)


def global_batch(mesh: Mesh, batch: Any) -> Any:
    """Join the batches of all processes, each split over its own devices, into a global one, without copying."""
    mine = local_mesh(mesh)
    if mine is mesh:
        return batch
    split, times = NamedSharding(mesh, P(DATA)), mesh.size // mine.size

    def join(x: jax.Array) -> jax.Array:
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays((len(x) * times, *x.shape[1:]), split, shards)

    return jax.tree.map(join, batch)


def shard_batch(mesh: Mesh) -> Callable[[Any], Any]:
    """Return a function that shards host arrays [b, ...] along b over the mesh. Each process gives its share."""
    split = NamedSharding(mesh, P(DATA))
    return partial(jax.tree.map, lambda x: jax.make_array_from_process_local_data(split, x))
