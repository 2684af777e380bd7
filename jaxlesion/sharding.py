"""One mesh axis, `data`: the batch is split over it, everything else is on every device."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlesion.errors import InputError

DATA = "data"  # the axis
LEAST_SHARE = 8  # images of a batch for which a core pays


def use_cores(batch_size: int) -> None:
    """Let JAX take cores for devices where it finds no accelerator, unless JAX_NUM_CPU_DEVICES says otherwise.

    XLA on the CPU runs most convolutions on one core, whatever it has: predicting is a third faster when each core has
    its share of the batch, of at least 8 images. To be called before JAX is first used; later it does nothing.
    """
    if jax.config.jax_num_cpu_devices < 1 and hasattr(os, "sched_getaffinity"):
        cores = min(len(os.sched_getaffinity(0)), max(1, batch_size // LEAST_SHARE))
        with contextlib.suppress(RuntimeError):  # JAX is in use already
            jax.config.update("jax_num_cpu_devices", _divisor(batch_size, cores))


def _divisor(number: int, most: int) -> int:
    """The largest one up to `most`."""
    return next(n for n in range(most, 0, -1) if number % n == 0)


def data_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices, or of those given; of cores only as many as split the batch evenly.

    Raises:
        InputError: the batch cannot be split evenly between accelerators.
    """
    devices = jax.devices() if devices is None else devices
    if devices[0].platform == "cpu" and jax.process_count() == 1:
        devices = devices[: _divisor(batch_size, len(devices))]
    if batch_size % len(devices):
        raise InputError(f"--data.batch-size {batch_size} is not a multiple of the {len(devices)} devices")
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def put_on(mesh: Mesh) -> Callable[[Any], Any]:
    """What splits host arrays [b, ...] along b over the mesh; every process gives its share of the global batch."""
    split = NamedSharding(mesh, P(DATA))
    return partial(jax.tree.map, lambda x: jax.make_array_from_process_local_data(split, x))
