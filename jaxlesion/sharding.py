"""One mesh axis, `data`: the batch is split over it, everything else is on every device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlesion.errors import InputError


def data_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices, or of those given.

    Raises:
        InputError: the batch cannot be split evenly.
    """
    devices = jax.devices() if devices is None else devices
    if batch_size % len(devices):
        raise InputError(f"--data.batch-size {batch_size} is not a multiple of the {len(devices)} devices")
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def put_on(mesh: Mesh) -> Callable[[Any], Any]:
    """What splits host arrays [b, ...] along b over the mesh; every process gives its share of the global batch."""
    split = NamedSharding(mesh, P("data"))
    return partial(jax.tree.map, lambda x: jax.make_array_from_process_local_data(split, x))
