"""BatchNorm and the three blocks of EfficientNetV2, as Flax modules on maps [b,h,w,c].

Submodules carry timm's names, so that `port` needs rules and no table.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxlesion.model.batchnorm import BN_EPS, count_values, normalise_batch
from jaxlesion.model.convolve import IMPL, convolve

HEAD = "classifier"  # the top-level key of the classifier in `params`
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
    """BatchNorm over all but the last axis, and over the devices of `axis_name`, as torch trains it; SiLU if wanted.

    The batch is normalised by its biased variance; the running variance is updated with the unbiased one, n / (n - 1).
    Statistics are float32. Each of the batch's `ghosts` parts is normalised by its own; the running ones take their
    mean.
    """

    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    ghosts: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, silu: bool = False) -> jax.Array:
        width = x.shape[-1]
        scale = _parameter(self, "scale", nn.initializers.ones, (width,))
        bias = _parameter(self, "bias", nn.initializers.zeros, (width,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        var = self.variable("batch_stats", "var", jnp.ones, (width,))
        if not train:
            factor = scale * lax.rsqrt(var.value + BN_EPS)
            y = (x * _as_map(factor) + _as_map(bias - mean.value * factor)).astype(self.dtype)
            return nn.silu(y) if silu else y
        axis, ghosts = (None, 1) if self.is_initializing() else (self.axis_name, self.ghosts)
        y, batch_mean, batch_var = normalise_batch(x, scale, bias, mean.value, axis, silu=silu, ghosts=ghosts)
        if not self.is_initializing():
            count = count_values(x, axis, ghosts)
            batch_var = batch_var * (count / max(count - 1, 1))
            mean.value = BN_MOMENTUM * mean.value + (1 - BN_MOMENTUM) * batch_mean
            var.value = BN_MOMENTUM * var.value + (1 - BN_MOMENTUM) * batch_var
        return y.astype(self.dtype)


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
    """Weigh the channels of [b,h,w,c] by a bottleneck of `squeezed` channels over their means.

    The weights are float32: in a narrower type converting them would cost more than their small products.
    """

    squeezed: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, bias=True, dtype=jnp.float32)
        gate = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        gate = nn.silu(conv(self.squeezed, name="conv_reduce")(gate))
        return x * nn.sigmoid(conv(x.shape[-1], name="conv_expand")(gate)).astype(x.dtype)


class Block(nn.Module):
    """The common part of the three kinds; a skip connection joins where the shape allows it."""

    width: int
    stride: int = 1
    expansion: int = 1
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    ghosts: int = 1

    @partial(nn.jit, static_argnames=("train",))  # so that equal blocks, as most are, are traced and lowered once
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.branch(x, partial(Conv, dtype=self.dtype), partial(self._norm, train=train))
        if y.shape != x.shape or self.stride != 1:
            return y
        return DropPath(self.drop_path, self.axis_name)(y, train=train) + x

    def _norm(self, x: jax.Array, name: str, *, train: bool, silu: bool = False) -> jax.Array:
        return BatchNorm(self.dtype, self.axis_name, self.ghosts, name=name)(x, train=train, silu=silu)

    def branch(self, x: jax.Array, conv, norm) -> jax.Array:
        raise NotImplementedError


class ConvBlock(Block):
    """3x3 convolution, BatchNorm, SiLU."""

    def branch(self, x, conv, norm):
        return norm(conv(self.width, 3, self.stride, name="conv")(x), "bn1", silu=True)


class FusedBlock(Block):
    """Fused inverted residual: the 3x3 expansion carries the stride; then a linear 1x1 projection."""

    def branch(self, x, conv, norm):
        y = conv(x.shape[-1] * self.expansion, 3, self.stride, name="conv_exp")(x)
        y = norm(y, "bn1", silu=True)
        return norm(conv(self.width, name="conv_pwl")(y), "bn2")


class InvertedBlock(Block):
    """Inverted residual: 1x1 expansion, depthwise 3x3, squeeze-excite (a quarter of the input), 1x1 projection."""

    def branch(self, x, conv, norm):
        wide = x.shape[-1] * self.expansion
        y = norm(conv(wide, name="conv_pw")(x), "bn1", silu=True)
        y = norm(conv(wide, 3, self.stride, depthwise=True, name="conv_dw")(y), "bn2", silu=True)
        y = SqueezeExcite(x.shape[-1] // 4, name="se")(y)
        return norm(conv(self.width, name="conv_pwl")(y), "bn3")


BLOCKS = {"conv": ConvBlock, "fused": FusedBlock, "inverted": InvertedBlock}
