"""BatchNorm keeps torch's running statistics; blocks compute in their type."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_running_variance_is_the_unbiased_one():
    x = normal(2, 3, 3, 5)
    module = blocks.BatchNorm()
    variables = module.init(jax.random.key(0), x, train=True)
    _, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = np.asarray(x).reshape(18, 5)
    close(updated["batch_stats"]["mean"], 0.1 * flat.mean(0))
    close(updated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1))
    close(variables["batch_stats"]["var"], np.ones(5))  # init does not change them


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
