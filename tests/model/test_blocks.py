"""BatchNorm equals torch's in training; blocks compute in their type."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxlesion.model import blocks
from jaxlesion.model.convolve import IMPL


def close(ours: jax.Array, theirs: jax.Array, tolerance: float = 1e-5) -> None:
    """Assert equality within `tolerance` of the largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * float(np.abs(theirs).max()))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def impl(request):
    with IMPL(request.param):
        yield request.param


def test_normalise_equals_its_formula():
    x, scale, bias = 3 * normal(4, 5, 6, 7) + 2, normal(7, seed=1), normal(7, seed=2)

    def plain(x, scale, bias):
        flat = x.reshape(-1, 7)
        mean, var = flat.mean(0, keepdims=True), flat.var(0, keepdims=True)
        return ((flat - mean) / jnp.sqrt(var + 1e-3) * scale[None] + bias[None]).reshape(x.shape)

    @partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, x, scale, bias):
        y, back = jax.vjp(function, x, scale, bias)
        return y, *back(jnp.sin(x))

    ours = value_and_gradients(lambda *args: blocks.normalise_batch(*args)[0], x, scale, bias)
    for mine, expected in zip(ours, value_and_gradients(plain, x, scale, bias), strict=True):
        close(mine, expected)


def test_statistics_survive_a_large_mean():
    x = np.asarray(normal(8, 64, 64, 3)) + np.float32([0, 100, -1000])
    _, mean, var = blocks.normalise_batch(x, jnp.ones(3), jnp.zeros(3))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-5)


def test_running_variance_is_the_unbiased_one():
    x = normal(2, 3, 3, 5)
    module = blocks.BatchNorm()
    variables = module.init(jax.random.key(0), x, train=True)
    _, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = np.asarray(x).reshape(18, 5)
    close(updated["batch_stats"]["mean"], 0.1 * flat.mean(0))
    close(updated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1))
    close(variables["batch_stats"]["var"], np.ones(5))  # init does not change them


def test_a_sharded_batch_is_one_batch():
    x, kernel = normal(8, 5, 5, 4) + jnp.arange(8.0).reshape(8, 1, 1, 1), normal(3, 3, 4, 4, seed=1)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    assert jax.device_count() > 1

    @jax.jit
    def values_and_gradients(x):
        def loss(x, kernel):
            y, mean, var = blocks.normalise_batch(blocks.convolve(x, kernel, 2), jnp.ones(4), jnp.zeros(4))
            return (y**3).sum(), (y, mean, var)

        return jax.grad(loss, (0, 1), has_aux=True)(x, kernel)

    sharded = values_and_gradients(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    for ours, alone in zip(*map(jax.tree.leaves, (sharded, values_and_gradients(x))), strict=True):
        close(ours, alone)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 1, 3))
    y = blocks.DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    per_image = y.reshape(4000, 6)
    assert (per_image == per_image[:, :1]).all()
    np.testing.assert_allclose(np.unique(per_image), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 1, atol=0.03)
    assert (blocks.DropPath(0.25).apply({}, x, train=False) == x).all()


def test_equal_blocks_are_traced_once_and_drop_other_images(monkeypatch):
    class Twins(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            twins = (blocks.InvertedBlock(8, expansion=2, drop_path=0.5, name=name) for name in "ab")
            return [twin(x, train=train) - x for twin in twins]

    traced, convolve = [], blocks.convolve
    monkeypatch.setattr(blocks, "convolve", lambda *args: traced.append(args) or convolve(*args))
    x = normal(64, 3, 3, 8)
    variables = Twins().init(jax.random.key(0), x, False)
    assert len(traced) == 5  # of one block: expansion, depthwise, two of squeeze-excite, projection
    branches, _ = Twins().apply(variables, x, True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
    first, second = ((branch != 0).any((1, 2, 3)) for branch in branches)
    assert 10 < (first & second).sum() < first.sum() < 54


@pytest.mark.parametrize(
    ("kind", "impl"),
    [
        ("conv", "cpu"),
        ("fused", "cpu"),
        ("inverted", "cpu"),
        ("inverted", "native"),
        ("fused", "gpu"),
        ("inverted", "gpu"),
    ],
    indirect=["impl"],
)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(kind, impl):
    x = normal(4, 9, 9, 8)
    block = blocks.BLOCKS[kind](8, expansion=4, dtype=jnp.bfloat16)
    variables = jax.jit(partial(block.init, train=False))(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    @partial(jax.jit, static_argnums=0)
    def outputs(block, x):
        def loss(params):
            y, _ = block.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
            return (y.astype(jnp.float32) ** 2).mean(), y

        (_, y), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return y, gradients

    low, low_gradients = outputs(block, x.astype(jnp.bfloat16))
    high, high_gradients = outputs(block.copy(dtype=jnp.float32), x)
    assert low.dtype == jnp.bfloat16
    close(low.astype(jnp.float32), high, 0.05)
    for ours, theirs in zip(jax.tree.leaves(low_gradients), jax.tree.leaves(high_gradients), strict=True):
        assert ours.dtype == jnp.float32
        assert jnp.abs(ours - theirs).max() <= 0.1 * jnp.abs(theirs).max() + 1e-3
