import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.checkpoint import Checkpoints
from jaxlesion.config import ModelConfig, OptimConfig, TrainConfig
from jaxlesion.errors import InputError
from jaxlesion.optim import make_optimiser
from jaxlesion.sharding import data_mesh, replicated
from jaxlesion.state import abstract_state, build_model, create_state, init_variables

CONFIG = TrainConfig(model=ModelConfig(variant="tiny"), optim=OptimConfig(ema=0.9))


@pytest.fixture(scope="module")
def state():
    optimiser = make_optimiser(CONFIG.optim)
    return create_state(init_variables(build_model(CONFIG.model), 0), optimiser, ema=True)


def at(state, step):
    return state.replace(step=jnp.asarray(step, jnp.int32))


def test_the_last_two_and_the_best_are_kept_also_by_another_process(tmp_path, state):
    for half in ([0.1, 0.9, 0.3], [None, 0.4, 0.5, 0.2]):  # opened twice: what is best must have been written down
        with Checkpoints(tmp_path) as checkpoints:
            done = (checkpoints.step() or 0) if checkpoints.step() else 0
            for k, metric in enumerate(half, done + 1):
                checkpoints.save(at(state, k), metric=metric)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert sorted(checkpoints.manager.all_steps()) == [2, 6, 7]
        assert (checkpoints.step("last"), checkpoints.step("best")) == (7, 2)
    assert not (tmp_path / "_trash").exists()


@pytest.mark.parametrize("freeze", [False, True])
def test_what_is_restored_is_what_was_saved_on_any_number_of_devices(freeze, tmp_path, state):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, freeze=freeze))
    if freeze:
        state = create_state(state.variables, make_optimiser(config.optim), frozen=True, ema=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 3))
    for devices in (1, 2):
        where = replicated(data_mesh(2, jax.devices()[:devices]))
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            restored = checkpoints.restore(3, abstract_state(config, where))
        assert int(restored.step) == 3
        assert restored.step.sharding.device_set == set(jax.devices()[:devices])
        for a, b in zip(jax.tree.leaves(at(state, 3)), jax.tree.leaves(restored), strict=True):
            np.testing.assert_array_equal(a, b)


def test_another_network_is_refused_by_name(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 3))
        other = TrainConfig(model=ModelConfig(variant="efficientnetv2_b0"))
        with pytest.raises(InputError, match="does not fit this run"):
            checkpoints.restore(3, abstract_state(other, replicated(data_mesh(2))))


def test_an_empty_folder_has_no_step(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.step("last") is None
        assert checkpoints.step("best") is None
