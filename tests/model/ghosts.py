"""Compare ghost batches with the formula of each, on one, two and four devices; run by `test_batchnorm.py`."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_batchnorm import close, formula, normal, with_gradients

from jaxlesion.model.batchnorm import normalise_batch
from jaxlesion.model.convolve import IMPL

SPLIT = P("data"), P(), P()


def each_by_itself(x, scale, bias, ghosts):
    y, mean, var = jax.vmap(lambda part: formula(part, scale, bias, True))(x.reshape(ghosts, -1, *x.shape[1:]))
    return y.reshape(x.shape), mean.mean(0), var.mean(0)


def compare(devices: int, ghosts: int, form: str) -> None:
    x, scale, bias = 3 * normal(8, 5, 6, 7) + 2, normal(7, seed=1), normal(7, seed=2)
    x += jnp.arange(8.0).reshape(8, 1, 1, 1)  # the parts have other means
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=SPLIT, out_specs=(SPLIT, SPLIT), check_vma=False)
    def ours(x, scale, bias):
        function = partial(normalise_batch, axis_name="data", silu=True, ghosts=ghosts)
        (y, *statistics), (dx, *rest) = with_gradients(lambda *args: function(*args, jnp.ones(7)), x, scale, bias)
        return (y, *jax.lax.pmean(statistics, "data")), (dx, *jax.lax.psum(rest, "data"))

    with IMPL(form):
        found = ours(x, scale, bias)
    expected = with_gradients(lambda *args: each_by_itself(*args, ghosts), x, scale, bias)
    for mine, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        close(mine, theirs)


if __name__ == "__main__":
    cases = [(1, 2), (1, 8), (2, 2), (2, 4), (4, 1), (4, 2)]
    for devices, ghosts in cases:
        for form in ("cpu", "gpu"):
            compare(devices, ghosts, form)
    print(2 * len(cases), "equal")
