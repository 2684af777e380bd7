import jax
import numpy as np
import pytest

from jaxlesion.errors import InputError
from jaxlesion.sharding import data_mesh, put_on, replicated


def test_a_batch_is_split_over_the_devices_and_the_rest_is_everywhere():
    mesh = data_mesh(4)
    assert mesh.size == 2
    batch = put_on(mesh)({"image": np.zeros((4, 2, 2, 3), np.uint8), "mask": np.ones(4)})
    assert [s.data.shape for s in batch["image"].addressable_shards] == [(2, 2, 2, 3)] * 2
    assert jax.device_put(np.ones(3), replicated(mesh)).is_fully_replicated


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(InputError, match="batch-size 3 is not a multiple of the 2 devices"):
        data_mesh(3)
