"""BatchNorm in both forms, alone and with SiLU, equals its formula on one device and on several."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlesion.model.batchnorm import normalise_batch
from jaxlesion.model.convolve import IMPL, convolve

FORMS = ("cpu", "gpu")  # two passes, and one


def close(ours: jax.Array, theirs: jax.Array, tolerance: float = 1e-5) -> None:
    """Assert equality within `tolerance` of the largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * float(np.abs(theirs).max()))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def formula(x, scale, bias, silu):
    flat = x.reshape(-1, x.shape[-1])
    mean, var = flat.mean(0, keepdims=True), flat.var(0, keepdims=True)
    y = ((flat - mean) / jnp.sqrt(var + 1e-3) * scale[None] + bias[None]).reshape(x.shape)
    return (nn.silu(y) if silu else y), mean[0], var[0]


def with_gradients(function, x, *rest):
    """Return what a function returns, and the gradients of its first output."""
    outputs, back = jax.vjp(function, x, *rest)
    return outputs, back((jnp.sin(x), *map(jnp.zeros_like, outputs[1:])))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("devices", [1, 2])
def test_normalise_equals_its_formula(form, silu, devices):
    x, scale, bias = 3 * normal(4, 5, 6, 7) + 2, normal(7, seed=1), normal(7, seed=2)
    x += jnp.arange(4.0).reshape(4, 1, 1, 1)  # the devices have other means
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))

    split = P("data"), P(), P()

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=split, out_specs=(split, split), check_vma=False)
    def ours(x, scale, bias):
        function = partial(normalise_batch, axis_name="data", silu=silu)
        outputs, (dx, *rest) = with_gradients(lambda *args: function(*args, jnp.ones(7)), x, scale, bias)
        return outputs, (dx, *jax.lax.psum(rest, "data"))

    with IMPL(form):
        found = ours(x, scale, bias)
    expected = jax.jit(lambda *args: with_gradients(lambda *args: formula(*args, silu), *args))(x, scale, bias)
    for mine, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        close(mine, theirs)


def test_ghost_batches_have_the_formulas_statistics_and_gradients_on_any_number_of_devices():
    """In a process of its own, with four devices: other tests have two."""
    script = Path(__file__).with_name("ghosts.py")
    environ = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environ)
    assert done.stdout == "12 equal\n", done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_statistics_survive_a_large_mean(form):
    """One pass needs to know it roughly: of a running mean that is off by a standard deviation, little is lost."""
    x = np.asarray(normal(8, 64, 64, 3)) + np.float32([0, 100, -1000])
    about = jnp.array([0.0, 101.0, -1001.0]) if form == "gpu" else jnp.zeros(3)
    with IMPL(form):
        _, mean, var = normalise_batch(x, jnp.ones(3), jnp.zeros(3), about)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-5 if form == "cpu" else 5e-5)


def test_one_pass_about_a_distant_mean_stays_finite():
    x = np.asarray(normal(8, 8, 8, 2)) * 1e-3 + np.float32([1e4, -1e4])
    with IMPL("gpu"):
        y, _, var = normalise_batch(x, jnp.ones(2), jnp.zeros(2), jnp.zeros(2))
    assert (var >= 0).all()
    assert jnp.isfinite(y).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_map_is_read_once_on_a_gpu_for_both_sums(form):
    with IMPL(form):
        args = normal(2, 3, 3, 5), jnp.ones(5), jnp.zeros(5), jnp.zeros(5)
        program = str(jax.make_jaxpr(lambda *args: normalise_batch(*args, silu=True))(*args))
    assert ("reduce[" in program) is (form == "gpu")
    assert ("reduce_sum[" in program) is (form == "cpu")


@pytest.mark.parametrize("form", FORMS)
def test_a_sharded_batch_is_one_batch(form):
    x, kernel = normal(8, 5, 5, 4) + jnp.arange(8.0).reshape(8, 1, 1, 1), normal(3, 3, 4, 4, seed=1)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    assert jax.device_count() > 1

    @jax.jit
    def values_and_gradients(x):
        def loss(x, kernel):
            y, mean, var = normalise_batch(convolve(x, kernel, 2), jnp.ones(4), jnp.zeros(4), jnp.zeros(4))
            return (y**3).sum(), (y, mean, var)

        return jax.grad(loss, (0, 1), has_aux=True)(x, kernel)

    with IMPL(form):
        sharded = values_and_gradients(jax.device_put(x, NamedSharding(mesh, P("data"))))
        for ours, alone in zip(*map(jax.tree.leaves, (sharded, values_and_gradients(x))), strict=True):
            close(ours, alone)
