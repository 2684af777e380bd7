"""The recipes in Albumentations: pixels are a function of (seed, epoch, row), and flips are independent."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxlesion.core.recipes import LIGHT, RECIPES, RecipeSpec
from jaxlesion.data.albumentations import augmenter

ROWS = 800


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (21, 21, 3), dtype=np.uint8)


@pytest.mark.parametrize("recipe", ["light", "full"])
def test_the_same_pixels_whatever_the_threads(image, recipe):
    """Compare eight threads in random order, which share one function, with one thread in order."""
    places = [(epoch, row) for epoch in range(2) for row in range(150)]
    serial = augmenter(RECIPES[recipe], 7)
    expected = {place: serial(image, *place) for place in places}
    shared, order = augmenter(RECIPES[recipe], 7), np.random.default_rng(1).permutation(len(places))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda k: shared(image, *places[k]), order))
    for k, result in zip(order, results, strict=True):
        np.testing.assert_array_equal(result, expected[places[k]])


def test_row_epoch_and_seed_each_change_the_pixels(image):
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)]
    results = {augmenter(LIGHT, seed)(image, epoch, row).tobytes() for seed, epoch, row in places}
    assert len(results) == len(places)


def test_none_returns_the_image_itself(image):
    assert augmenter(RECIPES["none"], 0)(image, 0, 0) is image


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [16, 33])
def test_type_and_shape_are_kept_and_the_input_is_not_written_to(recipe, size):
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    before = image.copy()
    for row in range(8):
        result = augmenter(RECIPES[recipe], 0)(image, 0, row)
        assert (result.dtype, result.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(image, before)


def test_all_eight_symmetries_occur_equally_often(image):
    """Allow 4.5 standard errors, seeded. If all transforms shared one seed, only four of the eight would occur."""
    symmetries = [np.rot90(flipped, k).tobytes() for flipped in (image, image[:, ::-1]) for k in range(4)]
    augment = augmenter(RecipeSpec(flips=True, rot90=True), 0)
    counts = np.bincount([symmetries.index(augment(image, 0, row).tobytes()) for row in range(ROWS)], minlength=8)
    assert np.abs(counts - ROWS / 8).max() < 4.5 * np.sqrt(ROWS * 7 / 64)


def test_both_flips_are_independent(image):
    flips = [image[:: 1 - 2 * y, :: 1 - 2 * x].tobytes() for y in (0, 1) for x in (0, 1)]
    augment = augmenter(RecipeSpec(flips=True), 0)
    counts = np.bincount([flips.index(augment(image, 0, row).tobytes()) for row in range(ROWS)], minlength=4)
    assert np.abs(counts - ROWS / 4).max() < 4.5 * np.sqrt(ROWS * 3 / 16)


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        (RecipeSpec(brightness=0.2), 100 - 51, 100 + 51),
        (RecipeSpec(contrast=0.2), 80, 120),
        (RecipeSpec(brightness=0.2, contrast=0.2), 80 - 51, 120 + 51),
    ],
)
def test_levels_reach_the_limits_of_the_recipe_and_stay_within(spec, low, high):
    grey, augment = np.full((3, 3, 3), 100, np.uint8), augmenter(spec, 0)
    levels = np.array([augment(grey, 0, row) for row in range(300)], float)
    assert (levels.std((1, 2, 3)) == 0).all()
    assert low - 1 <= levels.min() < low + 0.15 * (high - low)  # truncated to whole levels
    assert high - 0.15 * (high - low) < levels.max() <= high


@pytest.mark.parametrize("spec", [RecipeSpec(rotate=30.0), RECIPES["full"]])
def test_what_a_rotation_uncovers_is_reflected_not_black(spec):
    bright = np.full((33, 33, 3), 120, np.uint8)
    augment = augmenter(spec, 0)
    for row in range(50):
        assert np.ptp(augment(bright, 0, row)) <= 1
