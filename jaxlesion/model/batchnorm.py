"""BatchNorm of maps [b,h,w,c] with its own gradient, alone or with the SiLU that follows it."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxlesion.model.convolve import channel_sums, form

BN_EPS = 1e-3


class How(NamedTuple):
    """Say how to normalise; nothing of it is differentiated."""

    axis_name: str | None = None
    """Axis of the devices that share the batch."""
    sharing: int = 1
    """Neighbouring devices that share statistics."""
    silu: bool = False
    """Whether SiLU follows within."""
    once: bool = False
    """Read a map once for all sums over it. On a GPU a pass costs more than the rest, on a CPU it is cached."""


def normalise_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    about: jax.Array,
    axis_name: str | None = None,
    *,
    silu: bool = False,
    ghosts: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise [b,h,w,c] by its own statistics: (y, mean [c], biased variance [c]).

    No gradient flows into the two statistics returned: they only feed the running averages. With several ghost batches
    (Hoffer et al. 2017, arXiv:1705.08741) they are the means over those of this device.

    Args:
        x: the map.
        scale: of each channel, [c].
        bias: of each channel, [c].
        about: roughly the mean [c], the same on all devices: the closer, the less is lost in joining their variances.
        axis_name: where given, the statistics are those of the batch that the devices of this axis share.
        silu: whether y is SiLU of the normalised map.
        ghosts: parts of the batch, each with statistics of its own; a multiple or a divisor of the devices' number.
    """
    devices = _count_devices(axis_name)
    if ghosts > devices:
        parts = x.reshape(ghosts // devices, -1, *x.shape[1:])
        alone = partial(normalise_batch, silu=silu)
        y, mean, var = jax.vmap(alone, (0, None, None, None))(parts, scale, bias, about)
        return y.reshape(x.shape), mean.mean(0), var.mean(0)
    how = How(axis_name, devices // ghosts, silu, form() == "gpu")
    if silu and not how.once:  # on a CPU one operation is slower than two
        y, *statistics = _normalise_batch(x, scale, bias, about, how._replace(silu=False))
        return _silu(y), *statistics
    return _normalise_batch(x, scale, bias, about, how)


@jax.custom_vjp
def _silu(x: jax.Array) -> jax.Array:
    """Return SiLU, whose gradient computes the sigmoid again: kept, it takes a quarter of a step's memory."""
    return nn.silu(x)


def _silu_back(x, dy):
    x, dy = lax.optimization_barrier((x, dy))  # else XLA keeps the sigmoid of the forward pass
    gate = nn.sigmoid(x)
    return (dy * gate * (1 + x * (1 - gate)),)


_silu.defvjp(lambda x: (nn.silu(x), x), _silu_back)


def count_values(x: jax.Array, axis_name: str | None = None, ghosts: int = 1) -> int:
    """Count the values of a channel of [b,h,w,c] that are normalised together."""
    return x.size // x.shape[-1] * _count_devices(axis_name) // ghosts


def _count_devices(axis_name: str | None) -> int:
    return 1 if axis_name is None else lax.axis_size(axis_name)


def _as_map(vector: jax.Array) -> jax.Array:
    """Reshape [c] to [1,1,1,c]."""
    return vector.reshape(1, 1, 1, -1)


def _over_devices(vectors: Sequence[jax.Array], how: How) -> Sequence[jax.Array]:
    """Average vectors over the devices that share statistics, in one exchange."""
    if how.sharing == 1:
        return vectors
    devices, groups = _count_devices(how.axis_name), None
    if how.sharing < devices:
        groups = [list(range(first, first + how.sharing)) for first in range(0, devices, how.sharing)]
    return tuple(lax.pmean(jnp.stack(vectors), how.axis_name, axis_index_groups=groups))


def _statistics(x: jax.Array, about: jax.Array, how: How) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance [c].

    Where devices or one pass over the map require E[x^2] - E[x]^2, x is the difference to `about`: else they cancel.
    """
    count, wide = count_values(x), x.astype(jnp.float32)
    if how.once:
        apart = wide - _as_map(about)
        moments = [total / count for total in channel_sums(apart, jnp.square(apart), once=True)]
    else:
        mean = channel_sums(wide)[0] / count
        var = channel_sums(jnp.square(wide - _as_map(mean)))[0] / count
        if how.sharing == 1:
            return mean, var
        moments = [mean - about, var + jnp.square(mean - about)]
    apart, squares = _over_devices(moments, how)
    return about + apart, jnp.maximum(squares - jnp.square(apart), 0)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalise_batch(x, scale, bias, about, how):
    return _normalise(x, scale, bias, about, how)[0]


@partial(jax.jit, static_argnums=4, inline=True)  # so that maps of one shape are traced once
def _normalise(x, scale, bias, about, how):
    mean, var = _statistics(x, about, how)
    inverse = lax.rsqrt(var + BN_EPS)
    factor = scale * inverse
    y = (x.astype(jnp.float32) - _as_map(mean)) * _as_map(factor) + _as_map(bias)
    y = nn.silu(y) if how.silu else y
    return (y.astype(x.dtype), mean, var), (x, bias, mean, inverse, factor)


@partial(jax.jit, static_argnums=0, inline=True)
def _normalise_back(how, saved, cotangents):
    x, bias, mean, inverse, factor = saved

    def parts(mean: jax.Array, inverse: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the gradient before SiLU and the normalised map, float32."""
        apart, dy = x.astype(jnp.float32) - _as_map(mean), cotangents[0].astype(jnp.float32)
        if how.silu:
            z = apart * _as_map(factor) + _as_map(bias)
            gate = nn.sigmoid(z)
            dy *= gate * (1 + z * (1 - gate))
        return dy, apart * _as_map(inverse)

    dy, normal = parts(mean, inverse)
    dbias, dscale = channel_sums(dy, dy * normal, once=how.once)
    # Only the input's gradient needs the sums over all devices here; the parameters' are summed once, by the step.
    means = _over_devices((dbias, dscale), how)
    if how.silu:  # computed again: written and read it would cost more
        mean, inverse, *means = lax.optimization_barrier((mean, inverse, *means))
        dy, normal = parts(mean, inverse)
    common = (_as_map(means[0]) + normal * _as_map(means[1])) / count_values(x)
    dx = _as_map(factor) * (dy - common)
    return dx.astype(x.dtype), dscale, dbias, None


_normalise_batch.defvjp(_normalise, _normalise_back)
