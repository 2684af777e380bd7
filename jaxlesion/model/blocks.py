"""Convolutions, BatchNorm and the three blocks of EfficientNetV2, as Flax modules.

Submodules carry timm's names, so that `port` needs rules and no table. Images and maps are [b,h,w,c]; a convolution
kernel is [k,k,in/groups,out]; padding is TensorFlow's "SAME", which is asymmetric for a stride of 2.

XLA's own convolutions are slow on the CPU where they are depthwise or 1x1, and in the kernel's gradient of wide
3x3 ones, so there these have a second form: the same sums written as shifted and as matrix products. `IMPL` chooses
between them; nothing else does.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# "auto": the fast forms on the CPU, XLA's own elsewhere; `with IMPL("native"):` or "fast" for what is called within.
# "shapes": what is traced fastest, where only the shapes of the parameters are wanted.
IMPL = jax.make_user_context("auto")
HEAD = "classifier"  # the top-level key of the classifier in `params`
BN_EPS = 1e-3
BN_MOMENTUM = 0.9  # of the running value; torch calls it 0.1


def use_fast() -> bool:
    """Return whether to use the forms made for the CPU; JAX traces again when `IMPL` changes."""
    return IMPL.value == "fast" or (IMPL.value == "auto" and jax.default_backend() == "cpu")


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve [b,h,w,c] with [k,k,c,o], or depthwise with [k,k,1,c], to [b,ceil(h/stride),ceil(w/stride),o]."""
    if not use_fast():
        return _native(x, kernel, stride)
    if kernel.shape[:2] == (1, 1) and stride == 1 and not _is_depthwise(x, kernel):
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    # Of a narrow map XLA's own gradient is the faster one: 19 ms against 27 for [8,112,112,32] by 3x3x16.
    narrow = not _is_depthwise(x, kernel) and kernel.shape[3] <= 32
    return _native(x, kernel, stride) if narrow else _fast(x, kernel, stride)


def _is_depthwise(x: jax.Array, kernel: jax.Array) -> bool:
    return kernel.shape[2] == 1 < x.shape[-1]


def _native(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    groups = x.shape[-1] if _is_depthwise(x, kernel) else 1
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=layout, feature_group_count=groups
    )


def _pad_same(x: jax.Array, size: int, stride: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), *lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME"), (0, 0)))


def _shifts(x: jax.Array, size: int, stride: int, rows: int, cols: int) -> list[jax.Array]:
    """Return the `size * size` strided views of a padded map, each [b,rows,cols,c], that a convolution sums."""
    high, wide = (rows - 1) * stride + 1, (cols - 1) * stride + 1
    return [x[:, i : i + high : stride, j : j + wide : stride] for i in range(size) for j in range(size)]


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if not _is_depthwise(x, kernel):
        return _native(x, kernel, stride)
    size = kernel.shape[0]
    rows, cols = (-(-side // stride) for side in x.shape[1:3])
    views = _shifts(_pad_same(x, size, stride), size, stride, rows, cols)
    return sum(view * weight for view, weight in zip(views, kernel.reshape(size * size, 1, 1, 1, -1), strict=True))


_fast = jax.custom_vjp(_forward, nondiff_argnums=(2,))


def _save(x, kernel, stride):
    return _forward(x, kernel, stride), (x, kernel)


def _gradients(stride, saved, dy):
    """Return the gradients. The kernel's is summed row by row of the output: all rows at once would leave the cache."""
    x, kernel = saved
    size = kernel.shape[0]
    padded = _pad_same(x, size, stride)

    def add_row(total, row):
        views = _shifts(lax.dynamic_slice_in_dim(padded, row * stride, size, 1), size, stride, 1, dy.shape[2])
        dy_row = lax.dynamic_slice_in_dim(dy, row, 1, 1)
        if _is_depthwise(x, kernel):
            return total + jnp.stack([_channel_sum(view * dy_row) for view in views])[:, None], None
        columns, over = jnp.concatenate(views, -1), ((0, 1, 2), (0, 1, 2))
        product = lax.dot_general(columns, dy_row, (over, ((), ())), preferred_element_type=jnp.float32)
        return total + product.reshape(total.shape), None

    total, _ = lax.scan(add_row, jnp.zeros((size * size, *kernel.shape[2:])), jnp.arange(dy.shape[1]))
    if _is_depthwise(x, kernel) and stride == 1:
        dx = _forward(dy, kernel[::-1, ::-1], 1)  # by differentiation a sum of padded maps, which is slow
    else:
        (dx,) = jax.vjp(lambda x: _forward(x, kernel, stride), x)[1](dy)
    return dx, total.reshape(kernel.shape).astype(kernel.dtype)


_fast.defvjp(_save, _gradients)


def _as_map(vector: jax.Array) -> jax.Array:
    """Reshape [c] to [1,1,1,c]."""
    return vector.reshape(1, 1, 1, -1)


def _channel_sum(x: jax.Array) -> jax.Array:
    """Sum [b,h,w,c] to [c] in float32."""
    return x.sum((0, 1, 2), dtype=jnp.float32)


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
    mean = _channel_sum(wide) / count
    var = _channel_sum(jnp.square(wide - _as_map(mean))) / count  # two passes: E[x^2] - E[x]^2 cancels
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
    dbias, dscale = _channel_sum(dy), _channel_sum(dy * normal)
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
