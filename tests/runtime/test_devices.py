import os
from importlib import metadata
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.runtime import devices as sharding
from jaxlesion.runtime.devices import data_mesh, replicated, shard_batch


def test_a_batch_is_split_over_the_devices_and_the_rest_is_everywhere():
    mesh = data_mesh(4)
    assert mesh.size == 2
    batch = shard_batch(mesh)({"image": np.zeros((4, 2, 2, 3), np.uint8), "mask": np.ones(4)})
    assert [s.data.shape for s in batch["image"].addressable_shards] == [(2, 2, 2, 3)] * 2
    assert jax.device_put(np.ones(3), replicated(mesh)).is_fully_replicated


def test_a_batch_that_cannot_be_split_takes_fewer_cores_but_no_fewer_accelerators():
    assert data_mesh(3).size == 1
    with pytest.raises(InputError, match="batch-size 3 is not a multiple of the 2 devices"):
        data_mesh(3, [SimpleNamespace(platform="gpu")] * 2)


@pytest.mark.parametrize(("batch", "cores", "devices"), [(32, 2, 2), (32, 64, 4), (36, 64, 4), (7, 2, 1), (25, 4, 1)])
def test_cores_become_devices_where_each_has_enough_to_do(monkeypatch, batch, cores, devices):
    taken = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores))
    monkeypatch.setattr(sharding.jax, "config", SimpleNamespace(jax_num_cpu_devices=-1, update=taken.__setitem__))
    sharding.use_cores(batch)
    assert taken == {"jax_num_cpu_devices": devices}


def test_the_users_number_of_devices_stands(monkeypatch):
    monkeypatch.setattr(sharding.jax, "config", SimpleNamespace(jax_num_cpu_devices=1, update=None))
    sharding.use_cores(32)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_each_platform_has_its_option_unless_the_user_says_otherwise_or_xla_may_not_know_it(monkeypatch, platform):
    option, value = sharding.OPTIONS[platform]
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    assert sharding.compiler_options(platform) == {option: value}
    assert sharding.compiler_options(None) == sharding.compiler_options("tpu") == {}
    monkeypatch.setattr(metadata, "version", lambda name: "0.12.0")
    assert sharding.compiler_options(platform) == {}
    monkeypatch.undo()
    monkeypatch.setenv("XLA_FLAGS", f"--{option}=true")
    assert sharding.compiler_options(platform) == {}
