"""Feed batches to the devices: with their images, or as row numbers of arrays that the devices hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlesion.data.batch import Batch
from jaxlesion.runtime.devices import DATA, HELD_SHARE, global_batch, local_mesh, replicate, shard_batch

Put = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Feed:
    """The arrays that the devices hold, and the functions that bring a host batch to them.

    Args:
        held: nothing, the training images, or the features of a frozen backbone.
        put: host batch -> batch over the whole mesh.
        put_local: host batch -> batch over this process's devices.
    """

    held: Literal["nothing", "images", "features"]
    put: Put
    put_local: Put


def feed_batches(mesh: Mesh) -> Feed:
    """Bring each batch to the devices with its images."""
    return Feed("nothing", shard_batch(mesh), shard_batch(local_mesh(mesh)))


def feed_rows(arrays: np.ndarray, rows: np.ndarray, mesh: Mesh, held: Literal["images", "features"]) -> Feed:
    """Put `arrays` on every device, and bring each batch there by its row numbers alone.

    Args:
        arrays: [n, ...] images or features.
        rows: [n] the row of the table that each belongs to.
        mesh: that a batch is split over.
        held: what the arrays are.
    """
    put_local = hold_on_device(arrays, rows, mesh)
    return Feed(held, lambda batch: global_batch(mesh, put_local(batch)), put_local)


def should_hold(choice: Literal["auto", "yes", "no"], size: int, mesh: Mesh) -> bool:
    """Return whether every device of the mesh should hold `size` bytes of images.

    `auto`: on accelerators, when they take under a quarter of a device's memory. A CPU's memory is the
    host's: nothing is gained.
    """
    device = local_mesh(mesh).devices.flat[0]
    if choice != "auto" or device.platform == "cpu":
        return choice == "yes"
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return size < limit * HELD_SHARE


def hold_on_device(arrays: np.ndarray, rows: np.ndarray, mesh: Mesh) -> Put:
    """Put `arrays` on every local device; return a function from host batches without images to device batches.

    Args:
        arrays: [n, ...] such as images, uint8 [n, h, w, 3].
        rows: [n] the row of the table that each belongs to.
        mesh: that a batch is split over; each process puts its share on its own devices.
    """
    mesh = local_mesh(mesh)
    held = replicate(mesh, arrays)
    index = np.full(int(rows.max()) + 1, -1, np.int32)
    index[rows] = np.arange(len(rows))
    split = shard_batch(mesh)
    gather = jax.jit(lambda held, at: held[at], out_shardings=NamedSharding(mesh, P(DATA)))

    def put(batch: Batch) -> Batch:
        placed = split({**batch, "image": index[batch["row"]]})
        return {**placed, "image": gather(held, placed["image"])}

    return put
