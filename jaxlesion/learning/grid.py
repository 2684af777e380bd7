"""Geometry along the axes in JAX, for inside the jitted step: crops, and cells that are stretched or squeezed.

Each row and each column of the result is a weighted mean of rows and columns, so that two matrix products move all
pixels. Pixels are computed exactly: see `augment`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlesion.core.recipes import RecipeSpec

TAP = 11  # bits of a weight
CELLS = 5  # of the distorted grid, along each axis
TRIES, RATIO = 10, 4 / 3  # of a crop: sizes that are drawn, and the largest ratio of its sides


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
    return _interpolated(image, *(_stretched(size, steps) for size, steps in zip(image.shape, (y, x), strict=False)))


def draw_crop(key: jax.Array, spec: RecipeSpec, height: int, width: int) -> jax.Array:
    """Draw top, left, height and width of a part of the image, int32 [4], as Albumentations' `RandomResizedCrop` does.

    Of ten sizes, of uniform area and log-uniform ratio of width to height, the first that fits in the image is taken.
    """
    area, ratio, *corner = jax.random.uniform(key, (4, TRIES))
    area = height * width * (1 - spec.crop * area)
    ratio = jnp.exp(np.log(RATIO) * (2 * ratio - 1))
    wide, tall = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    first = jnp.argmax((wide <= width) & (tall <= height))  # the first try where none fits, then cut to the image
    wide, tall = jnp.minimum(wide[first], width), jnp.minimum(tall[first], height)
    top, left = jnp.floor(corner[0][first] * (height - tall + 1)), jnp.floor(corner[1][first] * (width - wide + 1))
    return jnp.stack([top, left, tall, wide]).astype(jnp.int32)


def crop(image: jax.Array, box: jax.Array) -> jax.Array:
    """Enlarge a part of an image, uint8 [h, w, 3], to the whole; `box` is top, left, height and width."""
    sizes = zip(image.shape[:2], box[:2], box[2:], strict=True)
    return _interpolated(image, *(_enlarged(size, start, length) for size, start, length in sizes))


def _enlarged(size: int, start: jax.Array, length: jax.Array) -> jax.Array:
    """Return the source [size] of each pixel along an axis; centres of pixels keep their relative place."""
    at = (np.arange(size) + 0.5) * length / size - 0.5
    return start + jnp.clip(at, 0, length - 1)


def _stretched(size: int, steps: jax.Array) -> jax.Array:
    """Return the source [size] of each pixel along an axis of cells of these relative sizes."""
    cell = size // CELLS
    left = size - CELLS * cell
    steps = steps.at[CELLS].multiply(left / cell)
    steps = steps * (size / cell / jnp.maximum(steps.sum(), 1e-6))
    begin = cell * (jnp.cumsum(steps) - steps)
    number, inside = np.divmod(np.arange(size), cell)
    count = np.where(number < CELLS, cell, left)
    at = begin[number] + steps[number] * cell * (inside / np.maximum(count - 1, 1))
    return jnp.where(steps[0] > 0, at, np.arange(size))


def resample(level: jax.Array, of_rows: jax.Array, of_columns: jax.Array) -> jax.Array:
    """Make each row, then each column of an image a weighted mean of others.

    A matrix product is far faster than a gather. In float32 it is exact: all its sums are whole numbers below 2**24.

    Args:
        level: int32 [3, h, w], 0 to 255.
        of_rows: int32 [h, h], the weights of each new row; they add up to 2**TAP.
        of_columns: int32 [w, w], likewise.

    Returns:
        int32 [3, h, w].
    """
    exact = partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)
    kept = 24 - 8 - TAP  # bits below the point that the second sum has room for
    rows = exact("ij,cjw->ciw", of_rows.astype(jnp.float32), level.astype(jnp.float32)).astype(jnp.int32)
    rows = rows + (1 << TAP - kept - 1) >> TAP - kept
    both = exact("kw,ciw->cik", of_columns.astype(jnp.float32), rows.astype(jnp.float32)).astype(jnp.int32)
    return both + (1 << TAP + kept - 1) >> TAP + kept


def _interpolated(image: jax.Array, of_rows: jax.Array, of_columns: jax.Array) -> jax.Array:
    """Take each row [h] and column [w] of an image, uint8 [h, w, 3], from between two others; outside is reflected."""
    level = jnp.moveaxis(image, -1, 0).astype(jnp.int32)
    return jnp.moveaxis(resample(level, _weights(of_rows), _weights(of_columns)), 0, -1).astype(jnp.uint8)


def _weights(at: jax.Array) -> jax.Array:
    """Return the weight of each pixel along an axis, int32 [size, size], for positions [size] between pixels."""
    at = jnp.round(at * (1 << TAP)).astype(jnp.int32)
    whole, part = (at >> TAP)[:, None], (at & ((1 << TAP) - 1))[:, None]
    pixel = jnp.arange(len(at))[None, :]
    first, second = (pixel == reflect(whole + n, len(at)) for n in (0, 1))
    return first * ((1 << TAP) - part) + second * part


def reflect(index: jax.Array, size: int) -> jax.Array:
    """Reflect indices up to a whole size outside about the outermost pixels (OpenCV's BORDER_REFLECT_101)."""
    return jnp.clip(size - 1 - jnp.abs(size - 1 - jnp.abs(index)), 0, size - 1)
