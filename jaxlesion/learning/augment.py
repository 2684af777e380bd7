"""The augmentation recipes in JAX, for inside the jitted step.

The same transforms as `jaxlesion.data.albumentations`, with other random numbers. Pixels are a function of
(seed, epoch, row) alone, bit for bit, whatever the batch, its order and the number of devices:
every image has a key of its own, and pixels are computed in integers, where no order of
operations changes a bit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.learning import grid, photometric
from jaxlesion.learning.grid import reflect

POINT = 16  # bits after the binary point of matrix, gain and lift; positions fit int32 up to about 8,000 pixels
WEIGHT = 11  # bits of an interpolation weight; a product of two and a level fits int32


class Draw(NamedTuple):
    """The changes to one image, in this order; all but `mirror` and `shift` are scalars."""

    mirror: jax.Array  # int32 [2], x and y: -1 to mirror that axis, else 1
    quarter: jax.Array  # int32, quarter turns counterclockwise
    angle: jax.Array  # float32, radians counterclockwise
    zoom: jax.Array  # float32, above 1 enlarges
    shift: jax.Array  # int32 [2], pixels to the right and down
    gain: jax.Array  # float32, contrast: factor of the level
    lift: jax.Array  # float32, brightness: levels added after it


def augment(
    images: jax.Array, spec: RecipeSpec, seed: jax.Array | int, epoch: jax.Array | int, rows: jax.Array
) -> jax.Array:
    """Augment a batch. `seed`, `epoch` and `rows` may be traced: another epoch needs no other program.

    Args:
        images: uint8 [b, h, w, 3].
        spec: the recipe.
        seed: of the run.
        epoch: int32 [].
        rows: int32 [b], position of each image in the table.

    Returns:
        uint8 [b, h, w, 3]: whole levels, as the host's recipe gives them.

    Raises:
        ValueError: quarter turns of images that are not square.
    """
    height, width = images.shape[1:3]
    if spec == RecipeSpec():
        return images
    if spec.rot90 and height != width:
        raise ValueError(f"quarter turns need square images, not {height} x {width}")
    key = jax.random.fold_in(jax.random.key(seed), epoch)

    def one(image: jax.Array, row: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, row)
        if spec.crop:
            image = grid.crop(image, grid.draw_crop(jax.random.fold_in(own, 4), spec, height, width))
        image = transform(image, draw(own, spec, height, width))
        if spec.distort:
            image = grid.distort(image, *grid.draw_grid(jax.random.fold_in(own, 1), spec))
        drawn = photometric.draw(jax.random.fold_in(own, 2), spec, height, width)
        return photometric.change(image, drawn, spec, jax.random.fold_in(own, 3))

    return jax.vmap(one)(images, rows)


def draw(key: jax.Array, spec: RecipeSpec, height: int, width: int) -> Draw:
    """Draw parameters, uniform within the recipe's ranges, distributed as in Albumentations 2.0.8."""
    flips, (quarter, angle, zoom, gain, lift), shift = jnp.split(
        jax.random.uniform(key, (9,), minval=-1.0, maxval=1.0), (2, 7)
    )
    return Draw(
        mirror=jnp.where(flips < 0, -1, 1) if spec.flips else jnp.ones(2, jnp.int32),
        quarter=jnp.floor(2 * quarter + 2).astype(jnp.int32) if spec.rot90 else jnp.int32(0),
        angle=jnp.deg2rad(angle * spec.rotate),
        zoom=1 + zoom * spec.scale,
        shift=jnp.trunc(shift * spec.shift * jnp.array([width, height])).astype(jnp.int32),  # whole pixels, as there
        gain=1 + gain * spec.contrast,
        lift=lift * spec.brightness * 255,
    )


def transform(image: jax.Array, drawn: Draw) -> jax.Array:
    """Apply one draw to one image, uint8 [h, w, 3], interpolating each pixel once.

    Flips, turns, rotation, zoom and shift are one affine map about the image's centre, bilinear, and
    exact where it meets pixels. What it uncovers is filled by reflection about the outermost pixel.
    Then x -> gain * x + lift, clipped and cut to whole levels, as Albumentations does it.
    """
    height, width, _ = image.shape
    x, y = _source(drawn, height, width)
    right, down = (_fraction(position)[..., None] for position in (x, y))
    left, up = (1 << WEIGHT) - right, (1 << WEIGHT) - down
    x, y = x >> POINT + 1, y >> POINT + 1
    columns = reflect(x, width), reflect(x + 1, width)

    def between(row: jax.Array) -> jax.Array:
        row = reflect(row, height)
        a, b = (image.at[row, column].get(mode="promise_in_bounds").astype(jnp.int32) for column in columns)
        return a * left + b * right

    level = between(y) * up + between(y + 1) * down
    level = (level + (1 << 2 * WEIGHT - 1)) >> 2 * WEIGHT
    level = (level * _fixed(drawn.gain) + _fixed(drawn.lift)) >> POINT
    return jnp.clip(level, 0, 255).astype(jnp.uint8)


def _source(drawn: Draw, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Return the source x and y of each pixel of the result, int32 [h, w] in units of 2**-(POINT + 1) pixels."""
    cos, sin = jnp.cos(drawn.angle) / drawn.zoom, jnp.sin(drawn.angle) / drawn.zoom
    odd = drawn.quarter % 2 == 1
    cos, sin = _fixed(jnp.where(odd, -sin, cos)), _fixed(jnp.where(odd, cos, sin))
    mirror_x, mirror_y = drawn.mirror * jnp.where(drawn.quarter % 4 >= 2, -1, 1)
    shift_x, shift_y = drawn.shift
    # Twice the distance from the centre, since the centre may lie between pixels.
    x = (2 * (jnp.arange(width) - shift_x) - (width - 1))[None, :]
    y = (2 * (jnp.arange(height) - shift_y) - (height - 1))[:, None]
    return (
        mirror_x * (cos * x - sin * y) + ((width - 1) << POINT),
        mirror_y * (sin * x + cos * y) + ((height - 1) << POINT),
    )


def _fixed(value: jax.Array) -> jax.Array:
    return jnp.round(value * (1 << POINT)).astype(jnp.int32)


def _fraction(position: jax.Array) -> jax.Array:
    return (position >> POINT + 1 - WEIGHT) & ((1 << WEIGHT) - 1)
