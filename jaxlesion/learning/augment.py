"""The augmentation recipes in JAX, for inside the jitted step.

The same transforms as `jaxlesion.data.albumentations`, with other random numbers. Pixels are a function of
(seed, epoch, row) alone, bit for bit, whatever the batch, its order and the number of devices:
every image has a key of its own, and pixels are computed in integers, where no order of
operations changes a bit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlesion.core.config import RecipeSpec
from jaxlesion.learning import photometric

POINT = 16  # bits after the binary point of matrix, gain and lift; positions fit int32 up to about 8,000 pixels
WEIGHT = 11  # bits of an interpolation weight; a product of two and a level fits int32
CELLS = 5  # of the distorted grid, along each axis


class Draw(NamedTuple):
    """The changes to one image, in this order; all but `mirror` and `shift` are scalars."""

    mirror: jax.Array  # int32 [2], x and y: -1 to mirror that axis, else 1
    quarter: jax.Array  # int32, quarter turns counterclockwise
    angle: jax.Array  # float32, radians counterclockwise
    zoom: jax.Array  # float32, above 1 enlarges
    shift: jax.Array  # int32 [2], pixels to the right and down
    gain: jax.Array  # float32, contrast: factor of the level
    lift: jax.Array  # float32, brightness: levels added after it


def augment(images: jax.Array, spec: RecipeSpec, seed: int, epoch: jax.Array | int, rows: jax.Array) -> jax.Array:
    """Augment a batch. `epoch` and `rows` may be traced: another epoch needs no other program.

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
        image = transform(image, draw(own, spec, height, width))
        if spec.distort:
            image = distort(image, *draw_grid(jax.random.fold_in(own, 1), spec))
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
    columns = _reflect(x, width), _reflect(x + 1, width)

    def between(row: jax.Array) -> jax.Array:
        row = _reflect(row, height)
        a, b = (image.at[row, column].get(mode="promise_in_bounds").astype(jnp.int32) for column in columns)
        return a * left + b * right

    level = between(y) * up + between(y + 1) * down
    level = (level + (1 << 2 * WEIGHT - 1)) >> 2 * WEIGHT
    level = (level * _fixed(drawn.gain) + _fixed(drawn.lift)) >> POINT
    return jnp.clip(level, 0, 255).astype(jnp.uint8)


def draw_grid(key: jax.Array, spec: RecipeSpec) -> tuple[jax.Array, jax.Array]:
    """Draw the sizes of the grid's cells along x and y, each [CELLS + 1] around 1; the last is of what is left over."""
    some = jax.random.uniform(jax.random.fold_in(key, 0)) < spec.often
    steps = 1 + spec.distort * jax.random.uniform(key, (2, CELLS + 1), minval=-1.0, maxval=1.0)
    x, y = jnp.where(some, steps, 0)
    return x, y


def distort(image: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Stretch and squeeze the columns and rows of an image, uint8 [h, w, 3], cell by cell; sizes of 0 leave it.

    The map of each axis is that of Albumentations' `GridDistortion`: linear within a cell, from border to border.
    """
    of_rows, of_columns = (_cells(size, steps) for size, steps in zip(image.shape[:2], (y, x), strict=True))
    level = photometric.resample(jnp.moveaxis(image, -1, 0).astype(jnp.int32), of_rows, of_columns)
    return jnp.moveaxis(level, 0, -1).astype(jnp.uint8)


def _cells(size: int, steps: jax.Array) -> jax.Array:
    """Return the weight of each pixel along an axis, int32 [size, size], in each pixel of the distorted image."""
    at = jnp.where(steps[0] > 0, _stretched(size, steps), np.arange(size))
    at = jnp.round(at * (1 << WEIGHT)).astype(jnp.int32)
    whole, part = (at >> WEIGHT)[:, None], (at & ((1 << WEIGHT) - 1))[:, None]
    pixel = jnp.arange(size)[None, :]
    first, second = (pixel == _reflect(whole + n, size) for n in (0, 1))
    return first * ((1 << WEIGHT) - part) + second * part


def _stretched(size: int, steps: jax.Array) -> jax.Array:
    """Return the source [size] of each pixel along an axis of cells of these relative sizes."""
    cell = size // CELLS
    left = size - CELLS * cell
    steps = steps.at[CELLS].multiply(left / cell)
    steps = steps * (size / cell / jnp.maximum(steps.sum(), 1e-6))
    begin = cell * (jnp.cumsum(steps) - steps)
    number, inside = np.divmod(np.arange(size), cell)
    count = np.where(number < CELLS, cell, left)
    return begin[number] + steps[number] * cell * (inside / np.maximum(count - 1, 1))


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


def _reflect(index: jax.Array, size: int) -> jax.Array:
    """Reflect indices up to a whole size outside about the outermost pixels (OpenCV's BORDER_REFLECT_101)."""
    return jnp.clip(size - 1 - jnp.abs(size - 1 - jnp.abs(index)), 0, size - 1)
