"""Convolution in three forms, of which the network's platform or `IMPL` chooses one; nothing else does.

Images and maps are [b,h,w,c]; a kernel is [k,k,in/groups,out], k odd; padding is TensorFlow's "SAME", which is
asymmetric for a stride of 2.

- "native": XLA's own convolution. On the CPU it is slow where it is depthwise or 1x1, and in the kernel's gradient of
  wide 3x3 ones. On a GPU it calls cuDNN, which is slow where it is depthwise, or where no algorithm was searched for.
- "cpu": the same sums as shifted maps and matrix products. The kernel's gradient is summed row by row of the output,
  so that a row stays in the cache.
- "gpu": the same sums, all rows at once, since the turns of a loop cost more there than what they compute.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
from jax import lax

# "auto": the form of the platform, which is the network's (`on_platform`), or JAX's where it has none.
# `with IMPL("native"):` for what is called within, whatever the platform.
# "each": a program for all platforms, which decides when it is compiled.
# "shapes": what is traced fastest, where only the shapes of the parameters are wanted.
IMPL = jax.make_user_context("auto")
FORMS = ("native", "cpu", "gpu")
GROUP = 16  # images that a thread of a GPU adds up in a loop, as XLA compiles sums of fewer than 32
LARGE = 2**28  # bytes of a map's neighbourhoods, beyond which cuDNN moves less than a matrix product of them


def form() -> str:
    """Return which form to use; JAX traces again when `IMPL` changes."""
    wanted = jax.default_backend() if IMPL.value == "auto" else IMPL.value
    return wanted if wanted in FORMS else "native"


def on_platform(platform: str | None) -> AbstractContextManager:
    """Return a context in which convolutions have the form of a platform, unless `IMPL` says which."""
    return IMPL(platform) if platform and IMPL.value == "auto" else nullcontext()


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve [b,h,w,c] with [k,k,c,o], or depthwise with [k,k,1,c], to [b,ceil(h/stride),ceil(w/stride),o]."""
    if IMPL.value == "each":
        return lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: _convolve(x, kernel, stride, "cpu"),
            default=lambda x, kernel: _convolve(x, kernel, stride, "native"),
        )
    return _convolve(x, kernel, stride, form())


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, chosen: str) -> jax.Array:
    depthwise = _is_depthwise(x, kernel)
    if chosen == "native":
        return _native(x, kernel, stride)
    if kernel.shape[:2] == (1, 1) and stride == 1 and not depthwise:
        return (_pointwise if chosen == "cpu" else _as_product)(x, kernel[0, 0])
    if chosen == "gpu":
        values = max(x.size // stride**2, x.size // stride**2 // kernel.shape[2] * kernel.shape[3])  # of x or of y
        small = values * math.prod(kernel.shape[:2]) * x.dtype.itemsize < LARGE
        return (_at_once if depthwise or small else _native)(x, kernel, stride)
    # Of a narrow map XLA's own gradient is the faster one: 19 ms against 27 for [8,112,112,32] by 3x3x16.
    narrow = not depthwise and kernel.shape[3] <= 32
    return (_native if narrow else _by_rows)(x, kernel, stride)


def channel_sums(*maps: jax.Array, once: bool = False) -> tuple[jax.Array, ...]:
    """Sum each of some maps [b,h,w,c] to [c] in float32; with `once` in one pass, as a GPU wants it.

    A pass has shared memory for two sums: of more, groups of images are added up first, which needs none.
    """
    wide = tuple(x.astype(jnp.float32) for x in maps)
    if not once:
        return tuple(x.sum((0, 1, 2)) for x in wide)
    if len(wide) > 2:
        images = math.gcd(len(wide[0]), GROUP)
        grouped = [x.reshape(-1, images, *x.shape[1:]).sum(1) for x in wide]
        return tuple(jnp.split(jnp.concatenate(grouped, -1).sum((0, 1, 2)), len(wide)))
    zeros = (jnp.zeros((), jnp.float32),) * len(wide)
    return lax.reduce(wide, zeros, lambda some, more: tuple(map(jnp.add, some, more)), (0, 1, 2))


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


def _cut(padded: jax.Array, size: int, stride: int, rows: int, cols: int) -> list[jax.Array]:
    """Return the `size * size` strided views of a padded map, each [b,rows,cols,c], that a convolution sums."""
    high, wide = (rows - 1) * stride + 1, (cols - 1) * stride + 1
    return [padded[:, i : i + high : stride, j : j + wide : stride] for i in range(size) for j in range(size)]


def _views(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """Return the views of a map, of the size of the output."""
    rows, cols = (-(-side // stride) for side in x.shape[1:3])
    return _cut(_pad_same(x, size, stride), size, stride, rows, cols)


def _as_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Convolve [b,h,w,c] by 1x1 with [c,o]."""
    return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())))


def _product(views: list[jax.Array], kernel: jax.Array) -> jax.Array:
    """Return the product of all neighbourhoods, given as views, with a kernel that is not depthwise."""
    return _as_product(jnp.concatenate(views, -1), kernel.reshape(-1, kernel.shape[3]))


def _kernel_gradient(views: list[jax.Array], dy: jax.Array, *, depthwise: bool, once: bool = False) -> jax.Array:
    """Return what the outputs `dy` add to the kernel's gradient, float32 [k*k, in / groups, out]."""
    if depthwise:
        wide = dy.astype(jnp.float32)
        return jnp.stack(channel_sums(*(view.astype(jnp.float32) * wide for view in views), once=once))[:, None]
    over = (0, 1, 2), (0, 1, 2)
    product = lax.dot_general(jnp.concatenate(views, -1), dy, (over, ((), ())), preferred_element_type=jnp.float32)
    return product.reshape(len(views), -1, dy.shape[3])


def _shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve depthwise as a sum of shifted maps."""
    weights = kernel.reshape(kernel.shape[0] ** 2, 1, 1, 1, -1)
    return sum(view * weight for view, weight in zip(_views(x, kernel.shape[0], stride), weights, strict=True))


def _back_pointwise(saved, dy):
    """Return the gradients of `_pointwise`; XLA's own would transpose the wider map, and compute dy twice."""
    x, matrix = saved
    dy = lax.optimization_barrier(dy)
    dx = lax.dot_general(dy, matrix, (((3,), (1,)), ((), ())))
    over = (0, 1, 2), (0, 1, 2)
    if x.shape[3] <= dy.shape[3]:
        return dx, lax.dot_general(x, dy, (over, ((), ())))
    # Without the barrier XLA turns the product around, and the faster library for products does not take it.
    return dx, lax.optimization_barrier(lax.dot_general(dy, x, (over, ((), ())))).T


def _forward_by_rows(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return (_shifted if _is_depthwise(x, kernel) else _native)(x, kernel, stride)


def _forward_at_once(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if _is_depthwise(x, kernel):
        return _shifted(x, kernel, stride)
    return _product(_views(x, kernel.shape[0], stride), kernel)


def _back_by_rows(stride, saved, dy):
    x, kernel = saved
    size, depthwise = kernel.shape[0], _is_depthwise(x, kernel)
    padded = _pad_same(x, size, stride)

    def add_row(total, row):
        above = lax.dynamic_slice_in_dim(padded, row * stride, size, 1)
        views, dy_row = _cut(above, size, stride, 1, dy.shape[2]), lax.dynamic_slice_in_dim(dy, row, 1, 1)
        return total + _kernel_gradient(views, dy_row, depthwise=depthwise), None

    total, _ = lax.scan(add_row, jnp.zeros((size * size, *kernel.shape[2:])), jnp.arange(dy.shape[1]))
    if depthwise and stride == 1:
        dx = _shifted(dy, kernel[::-1, ::-1], 1)  # by differentiation a sum of padded maps, which is slow
    else:
        dx = jax.vjp(lambda x: _forward_by_rows(x, kernel, stride), x)[1](dy)[0]
    return dx, total.reshape(kernel.shape).astype(kernel.dtype)


def _back_at_once(stride, saved, dy):
    x, kernel = saved
    depthwise = _is_depthwise(x, kernel)
    x, dy = lax.optimization_barrier((x, dy))  # else what they come from is read as well, or kept in float32
    total = _kernel_gradient(_views(x, kernel.shape[0], stride), dy, depthwise=depthwise, once=True)
    if stride == 1:
        turned = kernel[::-1, ::-1]
        dx = _forward_at_once(dy, turned if depthwise else turned.swapaxes(2, 3), 1)
    else:
        dx = jax.vjp(lambda x: _forward_at_once(x, kernel, stride), x)[1](dy)[0]
    return dx, total.reshape(kernel.shape).astype(kernel.dtype)


_pointwise = jax.custom_vjp(_as_product)
_pointwise.defvjp(lambda x, matrix: (_as_product(x, matrix), (x, matrix)), _back_pointwise)
_by_rows = jax.custom_vjp(_forward_by_rows, nondiff_argnums=(2,))
_by_rows.defvjp(lambda x, kernel, stride: (_forward_by_rows(x, kernel, stride), (x, kernel)), _back_by_rows)
_at_once = jax.custom_vjp(_forward_at_once, nondiff_argnums=(2,))
_at_once.defvjp(lambda x, kernel, stride: (_forward_at_once(x, kernel, stride), (x, kernel)), _back_at_once)
