"""Blur, colour, noise and erasing match Albumentations for the same parameters.

Bounds as in test_augment: 4.5 standard errors of seeded draws, or one level where a level may be cut to either side.
"""

import albumentations as A
import albumentations.augmentations.pixel.functional as pixel
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.data.albumentations import augmenter
from jaxlesion.learning import grid, photometric

DRAWS, ERRORS = 2000, 4.5
ALL = RecipeSpec(distort=0.3, saturation=0.3, hue=0.03, blur=1.0, noise=0.04, erase=0.15)
STILL = {"some": [False] * 4, "saturation": 1.0, "hue": 0, "sigma": 1.0, "noise": 0.0, "box": [0] * 4, "fill": [0] * 3}
jitted = jax.jit(photometric.change, static_argnums=2)
KINDS = ("blur", "colour", "noise", "erase")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.0), None, 0, 255, cv2.NORM_MINMAX)


def applied(image: np.ndarray, kind: str, **changes) -> np.ndarray:
    """Apply one kind with given parameters."""
    some = [kind == name for name in KINDS]
    drawn = photometric.Change(**{name: jnp.asarray(v) for name, v in (STILL | {"some": some} | changes).items()})
    return np.asarray(jitted(jnp.asarray(image), drawn, ALL, jax.random.key(0))).astype(int)


def planes(function, image: np.ndarray, parameter: jax.Array) -> np.ndarray:
    """Apply a function of planes [3, h, w] to an image."""
    return np.moveaxis(np.asarray(function(jnp.asarray(np.moveaxis(image, -1, 0), jnp.int32), parameter)), 0, -1)


def draws(spec: RecipeSpec, height: int = 60, width: int = 60) -> photometric.Change:
    keys = jax.random.split(jax.random.key(3), DRAWS)
    return jax.tree.map(np.asarray, jax.vmap(lambda key: photometric.draw(key, spec, height, width))(keys))


def test_nothing_chosen_leaves_the_image_as_it_is(image):
    np.testing.assert_array_equal(applied(image, "none"), image)


@pytest.mark.parametrize("factor", [0.7, 0.93, 1.0, 1.3])
def test_saturation_is_albumentations(image, factor):
    ours = planes(photometric._saturation, image, jnp.float32(factor))
    assert np.abs(ours - pixel.adjust_saturation_torchvision(image, factor)).max() <= 1


def test_colour_that_is_not_changed_differs_by_opencvs_bytes_of_hue_and_saturation_alone(image):
    assert np.abs(applied(image, "colour") - image).max() <= 5


@pytest.mark.parametrize("shift", [-90, -6, -1, 0, 1, 5, 60])
def test_hue_is_albumentations(image, shift):
    ours = planes(photometric._hue, image, jnp.int32(shift))
    theirs = pixel.adjust_hue_torchvision(image, (shift + 0.5) / 180).astype(int)
    off = ours - theirs
    assert (off != 0).mean() < 0.06  # OpenCV's vectors cut levels, and what is left of a row is rounded
    assert np.quantile(np.abs(off), 0.99) <= 1
    assert abs(off.mean()) < 0.05


def test_hue_and_saturation_leave_grey_as_it_is():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    np.testing.assert_array_equal(applied(grey, "colour", saturation=1.3, hue=5), grey)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6, 1.0])
def test_blur_is_albumentations(image, sigma):
    theirs = A.GaussianBlur(blur_limit=0, sigma_limit=(sigma, sigma), p=1)(image=image)["image"]
    assert np.abs(applied(image, "blur", sigma=sigma) - theirs).max() <= 1


def test_blur_keeps_a_constant():
    assert (applied(np.full((20, 20, 3), 201, np.uint8), "blur", sigma=0.8) == 201).all()


@pytest.mark.parametrize("sd", [2.55, 10.2])
def test_noise_has_albumentations_mean_and_spread(sd):
    grey = np.full((200, 200, 3), 128, np.uint8)
    ours = applied(grey, "noise", noise=sd)
    theirs = A.Compose([A.GaussNoise(std_range=(sd / 255, sd / 255), p=1)], seed=1)(image=grey)["image"].astype(int)
    error = sd * np.sqrt(2 / grey.size)
    assert abs(ours.mean() - theirs.mean()) < ERRORS * error
    assert abs(ours.std() - theirs.std()) < ERRORS * error
    assert abs(np.corrcoef(ours[..., 0].ravel(), ours[..., 1].ravel())[0, 1]) < ERRORS / 200


def test_erasing_fills_the_box_with_one_colour_and_nothing_else(image):
    ours = applied(image, "erase", box=[5, 10, 20, 30], fill=[1, 2, 3])
    expected = image.copy()
    expected[10:30, 5:20] = 1, 2, 3
    np.testing.assert_array_equal(ours, expected)


def test_boxes_are_distributed_as_albumentations_distributes_them():
    grey = np.full((60, 60, 3), 77, np.uint8)
    host, boxes = augmenter(RecipeSpec(erase=0.15), 5), []
    for row in range(DRAWS):
        y, x = np.nonzero((host(grey, 0, row) != 77).any(-1))
        if len(y):  # else the colour is that of the image
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    theirs = np.array(boxes)
    ours = draws(RecipeSpec(erase=0.15)).box
    assert (ours >= 0).all()
    assert (ours <= 60).all()
    for a, b in zip(*(np.stack([*part.T, *(part[:, 2:] - part[:, :2]).T]) for part in (ours, theirs)), strict=True):
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < ERRORS * error
        assert abs(np.log(a.std() / b.std())) < 0.1


def test_each_kind_is_made_as_often_as_the_recipe_says_and_alone():
    some = draws(RecipeSpec(often=0.3)).some.astype(float)
    assert np.abs(some.mean(0) - 0.3).max() < ERRORS * np.sqrt(0.21 / DRAWS)
    assert np.abs(np.corrcoef(some.T) - np.eye(4)).max() < ERRORS / np.sqrt(DRAWS)
    grids = [(grid.draw_grid(jax.random.key(n), RecipeSpec(distort=0.3, often=0.3))[0] == 0).all() for n in range(200)]
    assert abs(np.mean(grids) - 0.7) < ERRORS * np.sqrt(0.21 / 200)
