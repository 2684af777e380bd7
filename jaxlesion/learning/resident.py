"""Training images held on the device: only row numbers cross to it at every step."""

from collections.abc import Callable
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlesion.data.batch import Batch
from jaxlesion.runtime.devices import local_mesh, replicate, shard_batch


def should_hold(choice: Literal["auto", "yes", "no"], size: int, mesh: Mesh) -> bool:
    """Whether `size` bytes of images should be held on every device of the mesh.

    `auto`: on accelerators, when they take under a quarter of a device's memory. A CPU's memory is the
    host's: nothing is gained.
    """
    device = local_mesh(mesh).devices.flat[0]
    if choice != "auto" or device.platform == "cpu":
        return choice == "yes"
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return size < limit / 4


def hold_on_device(images: np.ndarray, rows: np.ndarray, mesh: Mesh) -> Callable[[Batch], Batch]:
    """Put the images on every device here and return what turns a host batch without images into a device batch.

    Args:
        images: uint8 [n, h, w, 3].
        rows: [n] the row of the table that each image belongs to.
        mesh: what batches are split over; of several processes, each has its share on its own devices.
    """
    mesh = local_mesh(mesh)
    held = replicate(mesh, images)
    index = np.full(int(rows.max()) + 1, -1, np.int32)
    index[rows] = np.arange(len(rows))
    split = shard_batch(mesh)
    gather = jax.jit(lambda held, at: held[at], out_shardings=NamedSharding(mesh, P("data")))

    def put(batch: Batch) -> Batch:
        placed = split({**batch, "image": index[batch["row"]]})
        return {**placed, "image": gather(held, placed["image"])}

    return put
