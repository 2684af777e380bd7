"""Arrays on the devices are gathered by a batch's row numbers, and only kept there if they fit."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlesion.learning.feed import hold_on_device, should_hold
from jaxlesion.runtime.devices import data_mesh, shard_batch


def test_rows_bring_their_images_split_over_the_devices():
    rng = np.random.default_rng(0)
    rows = np.array([3, 10, 4, 7])
    images = rng.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    mesh = data_mesh(4)
    order = np.array([7, 3, 10, 4], np.int32)
    batch = hold_on_device(images, rows, mesh)({"row": order, "mask": np.ones(4, np.float32)})
    np.testing.assert_array_equal(batch["image"], images[[3, 0, 1, 2]])
    assert [s.data.shape[0] for s in batch["image"].addressable_shards] == [2, 2]
    whole = shard_batch(mesh)({"row": order, "image": images[[3, 0, 1, 2]]})
    assert batch["image"].sharding == whole["image"].sharding


def test_a_cpu_holds_images_only_when_told_to():
    mesh = data_mesh(2, jax.devices()[:2])
    assert [should_hold(choice, 10, mesh) for choice in ("auto", "yes", "no")] == [False, True, False]


@pytest.mark.parametrize(("size", "held"), [(24, True), (25, False), (10**12, False)])
def test_an_accelerator_holds_images_that_take_under_a_quarter_of_its_memory(size, held):
    gpu = SimpleNamespace(platform="gpu", process_index=0, memory_stats=lambda: {"bytes_limit": 100})
    mesh = SimpleNamespace(devices=np.array([gpu]), size=1)
    assert should_hold("auto", size, mesh) is held
    assert [should_hold(choice, size, mesh) for choice in ("yes", "no")] == [True, False]


def test_an_accelerator_that_does_not_tell_its_memory_holds_nothing():
    gpu = SimpleNamespace(platform="gpu", process_index=0, memory_stats=lambda: None)
    assert not should_hold("auto", 1, SimpleNamespace(devices=np.array([gpu]), size=1))
