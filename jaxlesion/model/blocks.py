"""BatchNorm and the three blocks of EfficientNetV2, as Flax modules on maps [b,h,w,c].

Submodules carry timm's names, so that `port` needs rules and no table.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxlesion.model.convolve import IMPL, channel_sum, convolve

HEAD = "classifier"  # the top-level key of the classifier in `params`
BN_EPS = 1e-3
BN_MOMENTUM = 0.9  # of the running value; torch calls it 0.1


def _as_map(vector: jax.Array) -> jax.Array:
    """Reshape [c] to [1,1,1,c]."""
    return vector.reshape(1, 1, 1, -1)


def _parameter(module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> jax.Array:
    """Return a parameter. `module.param` would trace `init` even for an existing one: a fifth of the tracing time."""
    if IMPL.value == "shapes":
        return module.variable("params", name, jnp.zeros, shape).value
    return module.variable("params", name, lambda: init(module.make_rng("params"), shape)).value


def kernel_std(shape: tuple[int, ...]) -> float:
    """Return the standard deviation of a random kernel [k,k,in,out], or depthwise [k,k,1,c].

    He's over the fan out, as in the TensorFlow original: sqrt(2 / (k * k * out / groups)), arXiv:1502.01852.
    """
    size, _, inputs, features = shape
    return (2 / (size**2 * (1 if inputs == 1 else features))) ** 0.5


class Conv(nn.Module):
    """Convolution without bias unless asked: [b,h,w,c] -> [b,ceil(h/stride),ceil(w/stride),features]."""

    features: int
    size: int = 1
    stride: int = 1
    depthwise: bool = False
    bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = self.size, self.size, inputs, self.features
        kernel = _parameter(self, "kernel", nn.initializers.normal(kernel_std(shape)), shape)
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.bias:
            x += _as_map(_parameter(self, "bias", nn.initializers.zeros, (self.features,))).astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """BatchNorm over all but the last axis, and over the devices of `axis_name`, as torch trains it.

    The batch is normalised by its biased variance; the running variance is updated with the unbiased one, n / (n - 1).
    Statistics are float32.
    """

    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        scale = _parameter(self, "scale", nn.initializers.ones, (width,))
        bias = _parameter(self, "bias", nn.initializers.zeros, (width,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        var = self.variable("batch_stats", "var", jnp.ones, (width,))
        if not train:
            factor = scale * lax.rsqrt(var.value + BN_EPS)
            return (x * _as_map(factor) + _as_map(bias - mean.value * factor)).astype(self.dtype)
        axis = None if self.is_initializing() else self.axis_name
        y, batch_mean, batch_var = normalise_batch(x, scale, bias, axis)
        if not self.is_initializing():
            count = _count(x, axis)
            batch_var = batch_var * (count / max(count - 1, 1))
            mean.value = BN_MOMENTUM * mean.value + (1 - BN_MOMENTUM) * batch_mean
            var.value = BN_MOMENTUM * var.value + (1 - BN_MOMENTUM) * batch_var
        return y.astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise [b,h,w,c] by its own statistics: (y, mean [c], biased variance [c]).

    With `axis_name` they are those of the batch that the devices of this axis share. No gradient flows into the two
    statistics returned: they only feed the running averages.
    """
    return _normalise(x, scale, bias, axis_name)[0]


def _count(x: jax.Array, axis_name: str | None) -> int:
    """Count the values of a channel over all devices."""
    return x.size // x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))


@partial(jax.jit, static_argnums=3, inline=True)  # so that maps of one shape are traced once
def _normalise(x, scale, bias, axis_name):
    count = _count(x, None)
    wide = x.astype(jnp.float32)
    mean = channel_sum(wide) / count
    var = channel_sum(jnp.square(wide - _as_map(mean))) / count  # two passes: E[x^2] - E[x]^2 cancels
    if axis_name is not None:  # one exchange between the devices: the mean of variances and the variance of means
        gathered = lax.all_gather(jnp.stack([mean, var]), axis_name)
        mean, var = gathered.mean(0)
        var += jnp.square(gathered[:, 0] - mean[None]).mean(0)
    y = (wide - _as_map(mean)) * _as_map(scale * lax.rsqrt(var + BN_EPS)) + _as_map(bias)
    return (y.astype(x.dtype), mean, var), (x, scale, mean, var)


@partial(jax.jit, static_argnums=0, inline=True)
def _normalise_back(axis_name, saved, cotangents):
    x, scale, mean, var = saved
    dy = cotangents[0].astype(jnp.float32)
    count = _count(x, axis_name)
    inverse = lax.rsqrt(var + BN_EPS)
    normal = (x.astype(jnp.float32) - _as_map(mean)) * _as_map(inverse)
    dbias, dscale = channel_sum(dy), channel_sum(dy * normal)
    # Only the input's gradient needs the sums over all devices here; the parameters' are summed once, by the step.
    all_dbias, all_dscale = (dbias, dscale) if axis_name is None else lax.psum((dbias, dscale), axis_name)
    dx = _as_map(scale * inverse) * (dy - _as_map(all_dbias / count) - normal * _as_map(all_dscale / count))
    return dx.astype(x.dtype), dscale, dbias


normalise_batch.defvjp(_normalise, _normalise_back)


class Dropout(nn.Module):
    """Drops each value of [b,...] with probability `rate`; the same ones on any number of devices."""

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        shape, share, first = self.dropped(x), len(x), 0
        if self.axis_name is not None and not self.is_initializing():
            shape, first = (share * lax.axis_size(self.axis_name), *shape[1:]), share * lax.axis_index(self.axis_name)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(lax.dynamic_slice_in_dim(keep, first, share), x / (1 - self.rate), 0)

    def dropped(self, x: jax.Array) -> tuple[int, ...]:
        """Return the shape of the mask for `x`."""
        return x.shape


class DropPath(Dropout):
    """Stochastic depth (arXiv:1603.09382): drops the whole branch of an image [b,h,w,c] with probability `rate`."""

    def dropped(self, x: jax.Array) -> tuple[int, ...]:
        return len(x), 1, 1, 1


class SqueezeExcite(nn.Module):
    """Weigh the channels of [b,h,w,c] by a bottleneck of `squeezed` channels over their means."""

    squeezed: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, bias=True, dtype=self.dtype)
        gate = x.mean((1, 2), keepdims=True)
        gate = nn.silu(conv(self.squeezed, name="conv_reduce")(gate))
        return x * nn.sigmoid(conv(x.shape[-1], name="conv_expand")(gate))


class Block(nn.Module):
    """The common part of the three kinds; a skip connection joins where the shape allows it."""

    width: int
    stride: int = 1
    expansion: int = 1
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @partial(nn.jit, static_argnames=("train",))  # so that equal blocks, as most are, are traced and lowered once
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.branch(x, partial(Conv, dtype=self.dtype), partial(self._norm, train=train))
        if y.shape != x.shape or self.stride != 1:
            return y
        return DropPath(self.drop_path, self.axis_name)(y, train=train) + x

    def _norm(self, x: jax.Array, name: str, *, train: bool) -> jax.Array:
        return BatchNorm(self.dtype, self.axis_name, name=name)(x, train=train)

    def branch(self, x: jax.Array, conv, norm) -> jax.Array:
        raise NotImplementedError


class ConvBlock(Block):
    """3x3 convolution, BatchNorm, SiLU."""

    def branch(self, x, conv, norm):
        return nn.silu(norm(conv(self.width, 3, self.stride, name="conv")(x), "bn1"))


class FusedBlock(Block):
    """Fused inverted residual: the 3x3 expansion carries the stride; then a linear 1x1 projection."""

    def branch(self, x, conv, norm):
        y = conv(x.shape[-1] * self.expansion, 3, self.stride, name="conv_exp")(x)
        y = nn.silu(norm(y, "bn1"))
        return norm(conv(self.width, name="conv_pwl")(y), "bn2")


class InvertedBlock(Block):
    """Inverted residual: 1x1 expansion, depthwise 3x3, squeeze-excite (a quarter of the input), 1x1 projection."""

    def branch(self, x, conv, norm):
        wide = x.shape[-1] * self.expansion
        y = nn.silu(norm(conv(wide, name="conv_pw")(x), "bn1"))
        y = nn.silu(norm(conv(wide, 3, self.stride, depthwise=True, name="conv_dw")(y), "bn2"))
        y = SqueezeExcite(x.shape[-1] // 4, self.dtype, name="se")(y)
        return norm(conv(self.width, name="conv_pwl")(y), "bn3")


BLOCKS = {"conv": ConvBlock, "fused": FusedBlock, "inverted": InvertedBlock}
