"""Blur, colour, noise and erasing in JAX, for inside the jitted step; `augment` applies them after the geometry.

The same transforms as in `jaxlesion.data.albumentations`. Parameters are floats of each image, pixels are computed in
integers: see `augment`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.learning.grid import TAP, resample

POINT = 16  # bits after the binary point of a factor
REACH = 3  # pixels to each side that the blur looks at: 3.5 standard deviations of at most 1 pixel
BYTES_SD = (4 * (256**2 - 1) / 12) ** 0.5  # of the sum of four bytes
LEAST_ERASED, LEAST_BLUR = 0.02, 0.1  # the kernel of the latter is a single pixel
RATIO = (0.5, 2.0)  # width to height of what is erased


class Change(NamedTuple):
    """The changes to the levels of one image, in this order; `some` says which of them are made."""

    some: jax.Array  # bool [4], for blur, colour, noise, erasing
    sigma: jax.Array  # of the blur, pixels
    saturation: jax.Array  # factor of the distance to grey
    hue: jax.Array  # int32, half degrees that are added
    noise: jax.Array  # standard deviation, levels
    box: jax.Array  # int32 [4]: left, top, right, bottom of what is erased, the last two outside
    fill: jax.Array  # int32 [3], its colour


def draw(key: jax.Array, spec: RecipeSpec, height: int, width: int) -> Change:
    """Draw parameters, uniform within the recipe's ranges, distributed as in Albumentations 2.0.8."""
    u = jax.random.uniform(key, (15,))
    area = height * width * (LEAST_ERASED + u[8] * (spec.erase - LEAST_ERASED))
    ratio = RATIO[0] + u[9] * (RATIO[1] - RATIO[0])
    tall, wide = jnp.round(jnp.sqrt(area / ratio)), jnp.round(jnp.sqrt(area * ratio))
    top, left = jnp.floor(u[10] * (height - tall + 1)), jnp.floor(u[11] * (width - wide + 1))
    return Change(
        some=u[:4] < spec.often,
        saturation=1 + (2 * u[4] - 1) * spec.saturation,
        hue=jnp.floor(180 * (2 * u[5] - 1) * spec.hue).astype(jnp.int32),
        sigma=LEAST_BLUR + u[6] * (spec.blur - LEAST_BLUR),
        noise=255 * u[7] * spec.noise,
        box=jnp.stack([left, top, left + wide, top + tall]).astype(jnp.int32),
        fill=jnp.floor(256 * u[12:]).astype(jnp.int32),
    )


def change(image: jax.Array, drawn: Change, spec: RecipeSpec, key: jax.Array) -> jax.Array:
    """Apply one draw to one image, uint8 [h, w, 3]; what the recipe lacks is not computed. `key` is of the noise."""
    level = jnp.moveaxis(image, -1, 0).astype(jnp.int32)  # planes: a processor works on many pixels of one at once
    if spec.blur:  # before the colour: a matrix product ends what the compiler would else repeat for each channel
        level = _blur(level, jnp.where(drawn.some[0], drawn.sigma, LEAST_BLUR))
    if spec.saturation or spec.hue:
        changed = _saturation(level, drawn.saturation) if spec.saturation else level
        level = jnp.where(drawn.some[1], _hue(changed, drawn.hue) if spec.hue else changed, level)
    if spec.noise:
        level = jnp.where(drawn.some[2], jnp.clip(level + _noise(key, level.shape, drawn.noise), 0, 255), level)
    if spec.erase:
        inside = _inside(drawn.box, *level.shape[1:])[None]
        level = jnp.where(drawn.some[3] & inside, drawn.fill[:, None, None], level)
    return jnp.moveaxis(level, 0, -1).astype(jnp.uint8)


def _saturation(level: jax.Array, factor: jax.Array) -> jax.Array:
    """Move each pixel [3, h, w] from its grey, as ITU-R BT.601 weighs the channels, or towards it."""
    red, green, blue = level
    grey = (4899 * red + 9617 * green + 1868 * blue + (1 << 13) >> 14)[None]
    return jnp.clip(grey + ((level - grey) * _fixed(factor) + (1 << POINT - 1) >> POINT), 0, 255)


def _hue(level: jax.Array, shift: jax.Array) -> jax.Array:
    """Add half degrees to the hue of each pixel [3, h, w], by way of OpenCV's bytes of hue, saturation and value.

    As there, hue is rounded to half the degrees, saturation to bytes, and levels are cut. On the way back the channels
    fall from the value as far as their hue is from the pixel's: 1 - S clip(min(k, 4 - k), 0, 1), k in sixths of the
    circle, from 5, 3 and 1 on for red, green and blue.
    """
    red, green, blue = level
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    saturation = _ratio(255 * chroma, jnp.maximum(value, 1))
    other = jnp.where(value == red, green - blue, jnp.where(value == green, blue - red, red - green))
    third = jnp.where(value == red, 0, jnp.where(value == green, 60, 120))
    hue = third + _ratio(30 * other, jnp.maximum(chroma, 1)) + shift

    def channel(start: int) -> jax.Array:
        k = hue + start - 180 * _floor(hue + start, 180)
        return _floor(value * (7650 - saturation * jnp.clip(jnp.minimum(k, 120 - k), 0, 30)), 7650)  # 255 x 30

    return jnp.stack([channel(150), channel(90), channel(30)])


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """Divide and round, halves up."""
    return _floor(2 * a + b, 2 * b)


def _floor(a: jax.Array, b: jax.Array | int) -> jax.Array:
    """Return a // b for b above 0, by way of floats, which a processor divides many of at once; then put right."""
    quotient = jnp.floor(a.astype(jnp.float32) / b).astype(jnp.int32)
    rest = a - quotient * b
    return quotient + (rest >= b) - (rest < 0)


def _blur(level: jax.Array, sigma: jax.Array) -> jax.Array:
    """Convolve an image [3, h, w] with a Gaussian cut off at 3.5 standard deviations, reflected at the border."""
    at = np.arange(-REACH, REACH + 1)
    tap = jnp.where(np.abs(at) <= jnp.floor(3.5 * sigma), jnp.exp(-0.5 * (at / sigma) ** 2), 0)
    tap = jnp.round(tap / tap.sum() * (1 << TAP)).astype(jnp.int32)
    tap = tap.at[REACH].add((1 << TAP) - tap.sum())  # they add up to one, so that a constant stays
    return resample(level, *(jnp.einsum("t,tij->ij", tap, _neighbours(size)) for size in level.shape[1:]))


def _neighbours(size: int) -> np.ndarray:
    """Return for each step from -REACH to REACH which pixel [size, size] is that far from each, reflected."""
    at = np.abs(np.arange(size) + np.arange(-REACH, REACH + 1)[:, None])
    at = size - 1 - np.abs(size - 1 - at)
    return (at[..., None] == np.arange(size)).astype(np.int32)


def _noise(key: jax.Array, shape: tuple[int, ...], sd: jax.Array) -> jax.Array:
    """Draw noise, int32 and cut towards 0: the scaled sum of four random bytes, which is close to normal."""
    bits = jax.random.bits(key, shape, jnp.uint32)
    total = sum((bits >> 8 * n & 255).astype(jnp.int32) for n in range(4)) - 510
    return jax.lax.div(total * _fixed(sd / BYTES_SD), 1 << POINT)


def _inside(box: jax.Array, height: int, width: int) -> jax.Array:
    """Return the pixels [h, w] of a box."""
    x, y = jnp.arange(width)[None, :], jnp.arange(height)[:, None]
    return (x >= box[0]) & (y >= box[1]) & (x < box[2]) & (y < box[3])


def _fixed(value: jax.Array) -> jax.Array:
    return jnp.round(value * (1 << POINT)).astype(jnp.int32)
