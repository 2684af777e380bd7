"""Crops and the distorted grid match Albumentations for the same parameters, and moved pixels are exact."""

import albumentations as A
import albumentations.augmentations.geometric.functional as geometric
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.learning import grid

DRAWS, ERRORS = 2000, 4.5


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("size", [33, 48, 65])
def test_the_grid_is_albumentations(size):
    rng = np.random.default_rng(size)
    x, y = 1 + 0.3 * rng.uniform(-1, 1, (2, 6))
    steps = geometric.normalize_grid_distortion_steps((size, size), 5, list(x), list(y))
    map_x, map_y = geometric.generate_grid((size, size), steps["steps_x"], steps["steps_y"], 5)
    np.testing.assert_allclose(grid._stretched(size, jnp.asarray(x)), map_x[0], atol=1e-3)
    noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 2.0)
    theirs = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    ours = np.asarray(grid.distort(jnp.asarray(image), jnp.asarray(x), jnp.asarray(y))).astype(int)
    assert np.abs(ours - theirs).max() <= 2  # OpenCV interpolates in steps of 1/32 pixel


def test_cells_of_equal_size_move_less_than_a_pixel(image):
    at = np.asarray(grid._stretched(60, jnp.ones(6)))
    assert np.abs(at - np.arange(60)).max() <= 1


@pytest.mark.parametrize("box", [(0, 0, 48, 64), (3, 10, 40, 30), (20, 0, 28, 64), (0, 5, 7, 9)])
def test_a_crop_is_opencvs(image, box):
    top, left, tall, wide = box
    part = image[top : top + tall, left : left + wide]
    theirs = cv2.resize(part, (64, 48), interpolation=cv2.INTER_LINEAR)
    ours = np.asarray(grid.crop(jnp.asarray(image), jnp.array(box))).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_the_whole_image_stays_as_it_is(image):
    np.testing.assert_array_equal(grid.crop(jnp.asarray(image), jnp.array([0, 0, 48, 64])), image)


def test_crops_are_distributed_as_albumentations_distributes_them():
    theirs = A.Compose([A.RandomResizedCrop((60, 60), scale=(0.5, 1), ratio=(3 / 4, 4 / 3), p=1)], seed=1)
    y, x = np.mgrid[:60, :60].astype(np.uint8)
    places = np.stack([x, y, 0 * x], -1)
    found = []
    for _ in range(DRAWS):
        result = theirs(image=places)["image"]
        left, right, top, bottom = result[0, 0, 0], result[0, -1, 0], result[0, 0, 1], result[-1, 0, 1]
        found.append([top, left, bottom - top + 1.0, right - left + 1.0])
    keys = jax.random.split(jax.random.key(3), DRAWS)
    ours = np.asarray(jax.vmap(lambda key: grid.draw_crop(key, RecipeSpec(crop=0.5), 60, 60))(keys))
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= 60).all()
    for a, b in zip(ours.T, np.array(found).T, strict=True):
        assert abs(a.mean() - b.mean()) < ERRORS * np.sqrt((a.var() + b.var()) / DRAWS)
        assert abs(np.log(a.std() / b.std())) < 0.1


def test_a_mean_of_rows_and_columns_is_exact_in_float32():
    rng = np.random.default_rng(0)
    level = rng.integers(0, 256, (3, 40, 50))
    of_rows, of_columns = (rng.multinomial(1 << grid.TAP, np.full(n, 1 / n), n) for n in (40, 50))
    rows = np.einsum("ij,cjw->ciw", of_rows, level) + (1 << 5) >> 6
    expected = np.einsum("kw,ciw->cik", of_columns, rows) + (1 << 15) >> 16
    np.testing.assert_array_equal(
        grid.resample(*(jnp.asarray(x, jnp.int32) for x in (level, of_rows, of_columns))), expected
    )
